"""How weights that ship with the code were made: a folder each. Not in the wheel, and imported by nobody."""
