"""Recipes of the weights that ship with the code, a folder for each. Nothing imports them. Not in the wheel."""
