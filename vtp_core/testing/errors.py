"""The error of the conformance checks."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A component breaks a rule of the framework; the message says which and how to follow it."""
