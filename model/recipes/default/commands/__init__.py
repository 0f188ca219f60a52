"""The command line of the recipe."""
