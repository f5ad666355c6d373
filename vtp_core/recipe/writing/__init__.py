"""Recipes and their keys as text: TOML, JSON schema, documentation."""
