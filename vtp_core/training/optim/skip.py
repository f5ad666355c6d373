"""The exception that skips a step."""

from __future__ import annotations


class SkipStep(Exception):
    """Skips the step for the reason in its message; raised on all ranks, as the checked value is reduced."""
