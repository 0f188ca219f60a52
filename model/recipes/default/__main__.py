"""`python -m model.recipes.default`."""

from model.recipes.default.commands.cli import main

if __name__ == "__main__":
    main()
