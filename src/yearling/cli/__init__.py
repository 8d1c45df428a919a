"""The command line: thin commands that call the platform's parts."""
