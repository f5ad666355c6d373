"""Memory of plans is given back at once."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import pytest

_M_MMAP_THRESHOLD = -3  # malloc.h
_LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="package", autouse=True)
def _big_blocks_are_mappings() -> None:
    """Blocks from 1 MiB on are mappings of their own, which glibc gives back when they are freed.

    Otherwise each plan leaves up to a gigabyte of holes in the heap, and a process whose heap is larger
    than the memory of the machine can't fork, as later tests with data workers do.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


@pytest.fixture(autouse=True)
def _nothing_is_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """A plan's cycles and small blocks, a gigabyte of a paper's recipe, go before the next one is made."""
    yield
    if request.node.get_closest_marker("slow"):
        gc.collect()
        trim = getattr(_LIBC, "malloc_trim", None)
        if trim is not None:
            trim(0)
