"""Conformance checks, one file a kind of component."""
