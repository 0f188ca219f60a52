"""The command line's commands, one file each. Each imports what it runs when it runs, so that `--help` is at once."""
