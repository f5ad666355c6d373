"""The command `vtp generate`."""
