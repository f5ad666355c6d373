"""The tables of a recipe as pydantic models."""
