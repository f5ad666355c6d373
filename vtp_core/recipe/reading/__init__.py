"""From TOML files to checked tables, with a line for every problem."""
