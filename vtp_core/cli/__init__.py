"""The command line: one module a command. Imports no torch at start."""
