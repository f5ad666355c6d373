"""Seeds derived from the use of a random number, so that no generator state is saved.

Adding an objective, resuming or changing the row chunks leaves all other random numbers as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*key: object) -> int:
    """A 63-bit seed from a key of numbers and strings, the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Seeds torch's global generators from `key` for the body, and restores them after it."""
    devices = (
        [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive_seed(*key))
        yield


def generator(*key: object) -> torch.Generator:
    """A new CPU generator, seeded from `key`."""
    return torch.Generator().manual_seed(derive_seed(*key))
