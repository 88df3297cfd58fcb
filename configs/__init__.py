"""Which run: recipes in plain Python, each with a `stages()` that returns its targets."""
