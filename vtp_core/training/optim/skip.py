"""Why a step moves nothing."""

from __future__ import annotations


class SkipStep(Exception):
    """Raised on all ranks alike, as the value that was checked is reduced; its message is the reason."""
