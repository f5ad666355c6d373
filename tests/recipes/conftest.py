"""Memory of plans is given back at once."""

from __future__ import annotations

import ctypes

import pytest

_M_MMAP_THRESHOLD = -3  # malloc.h


@pytest.fixture(scope="package", autouse=True)
def _big_blocks_are_mappings() -> None:
    """Blocks from 1 MiB on are mappings of their own, which glibc gives back when they are freed.

    Otherwise each plan leaves up to a gigabyte of holes in the heap, and a process whose heap is larger
    than the memory of the machine can't fork, as later tests with data workers do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
