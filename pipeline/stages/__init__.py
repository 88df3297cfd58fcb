"""What a recipe puts together: one config and one function per stage. Stages do not know each other."""
