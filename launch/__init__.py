"""Where it runs: the command line, Ray, schedules and queries. The only package that knows machines."""
