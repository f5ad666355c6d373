"""Random number generators keyed by their purpose. Imports no torch.

Order, crops and masks are pure functions of the seed and of a position (step, view, global row): a resume
needs no saved generator, and nothing depends on the number of workers or ranks.
"""

from __future__ import annotations

import hashlib

import numpy


def _digest(key: tuple[object, ...], size: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=size).digest(), "little")


def integer(*key: str | int) -> int:
    """A 64-bit number from a key of strings and integers, the same on every machine."""
    return _digest(key, 8)


def generator(*key: str | int) -> numpy.random.Generator:
    """A separate generator for each key of strings and integers (Philox, 128-bit key)."""
    return numpy.random.Generator(numpy.random.Philox(key=_digest(key, 16)))
