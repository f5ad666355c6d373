"""Random numbers by what they are for. Imports no torch.

Data, crops and masks are pure functions of the seed and of a place (step, view, global row), so nothing has
to be saved to resume and nothing depends on workers or world size.
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
    """A generator of its own for a key of strings and integers (Philox, 128-bit key)."""
    return numpy.random.Generator(numpy.random.Philox(key=_digest(key, 16)))
