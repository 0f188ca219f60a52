"""`python -m app`: what `dalle-server` is where it is not installed as a program."""

from app.cli import main

if __name__ == "__main__":
    main()
