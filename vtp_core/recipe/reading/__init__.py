"""Reads recipes: TOML files to validated tables, with file and line of every problem."""
