"""The ahead-of-time gate: resources of every compiled kernel on every architecture, against a table."""
