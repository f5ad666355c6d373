"""A random subset of the samples of many shards: those of the smallest hash. Imports no torch.

Whether a sample is taken depends on the seed, the name of its shard and its key, not on the order of the
shards or on where they lie. Of one seed, a smaller subset is part of every larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from vtp_core.data.draw import integer
from vtp_plugins.tar_shards.keys import Keys

_SLACK = 1 << 16


@dataclass(frozen=True)
class Subset:
    """Which samples to keep.

    Attributes:
        size: Number of samples.
        seed: Another one gives another subset.
    """

    size: int
    seed: int = 0

    @property
    def most_held(self) -> int:
        """Samples that may be held before the largest hashes are dropped: the subset and a quarter."""
        return self.size + max(self.size // 4, _SLACK)

    def hashes(self, shard: str, keys: Keys) -> NDArray[numpy.uint64]:
        """A number for each sample of a shard, uniform over 64 bits.

        Args:
            shard: File name of the shard; keys repeat between shards.
            keys: Names of the samples.

        Returns:
            (samples,): the key's words of 8 bytes, each mixed in by the finaliser of SplitMix64.
        """
        state = numpy.full(len(keys), integer("subset", self.seed, shard), dtype=numpy.uint64)
        for rows, words in keys.words():
            state[rows] = _mix(state[rows] ^ words)
        return state


def smallest(hashes: NDArray[numpy.uint64], size: int) -> NDArray[numpy.bool_]:
    """Marks the `size` smallest, the first ones of equal hashes.

    Args:
        hashes: (n,) numbers, at least `size`.
        size: How many are marked.
    """
    bound = numpy.partition(hashes, size - 1)[size - 1]
    chosen = hashes < bound
    chosen[numpy.flatnonzero(hashes == bound)[: size - int(chosen.sum())]] = True
    return chosen


def _mix(value: NDArray[Any]) -> NDArray[numpy.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit numbers."""
    value = (value ^ (value >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return value ^ (value >> numpy.uint64(31))
