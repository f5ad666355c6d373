"""`vtp data check`: whether a source can be read, and what is in it."""
