"""The shipped recipes; installed as the package `vtp_recipes`."""
