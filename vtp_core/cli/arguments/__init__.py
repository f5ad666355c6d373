"""Arguments and options of commands, and what a shell completes. Imports no torch."""
