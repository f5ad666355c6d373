"""Keeps the features of an adapted encoder near those of a frozen copy."""
