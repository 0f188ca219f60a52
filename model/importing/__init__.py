"""Reads other people's models: `recognise` tells files apart by what they hold, and one module a family reads them.

Nothing in a file is ever executed. What cannot be read exactly is refused in one line that names the key, the class or
the type at fault. Imports no torch at the top.
"""
