"""Why a step moves nothing."""

from __future__ import annotations


class SkipStep(Exception):
    """Raised on all ranks alike, because the value that was checked is a reduced one; the message is the reason."""
