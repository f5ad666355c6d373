"""The ahead-of-time gate: what the compiler makes of every kernel on every architecture, against a table."""
