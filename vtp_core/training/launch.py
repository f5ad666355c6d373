"""Whether this process is a rank that somebody started. Imports no torch."""

from __future__ import annotations

import os


def launched_ranks() -> int | None:
    """Number of ranks that torchrun started, or None if it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else None
