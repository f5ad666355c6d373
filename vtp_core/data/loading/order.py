"""The order of samples: a pure function of (seed, epoch, position), in constant memory. Imports no torch.

Each epoch is a keyed permutation of the samples, computed one position at a time by a Feistel network over
``a * b >= length`` numbers with cycle walking. A run resumes at any step, and every world size sees the same
order, without shuffle buffer, state or list of indices.
"""

from __future__ import annotations

import math

from vtp_core.data.draw import integer

_ROUNDS = 8
_WORD = (1 << 64) - 1


def _mix(value: int) -> int:
    """Scrambles 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


class Permutation:
    """A keyed permutation of ``range(length)``.

    Args:
        length: Number of elements, at least 1.
        key: What the permutation depends on, such as ("order", seed, epoch).
    """

    def __init__(self, length: int, *key: str | int) -> None:
        if length < 1:
            raise ValueError(f"a permutation needs at least one element, got {length}")
        self.length = length
        # The smallest rectangle that holds all numbers: fewer than sqrt(length) + 1 of them lie outside.
        self._left = math.isqrt(length - 1) + 1
        self._right = -(-length // self._left)
        self._keys = tuple(integer(*key, turn) for turn in range(_ROUNDS))

    def __len__(self) -> int:
        return self.length

    def __call__(self, place: int) -> int:
        """The element at `place`, both in ``range(length)``."""
        if not 0 <= place < self.length:
            raise IndexError(f"place {place} is outside of 0..{self.length - 1}")
        number = self._scramble(place)
        # A number out of range is scrambled again; the walk ends, because `place` lies on the same cycle.
        while number >= self.length:
            number = self._scramble(number)
        return number

    def _scramble(self, number: int) -> int:
        """A bijection of ``range(left * right)``: each round shifts one half by a function of the other."""
        right, left = divmod(number, self._left)
        for turn, key in enumerate(self._keys):
            if turn % 2:
                right = (right + _mix(key ^ left)) % self._right
            else:
                left = (left + _mix(key ^ right)) % self._left
        return right * self._left + left


class Order:
    """An endless stream of sample indices, one permutation after the other.

    Args:
        length: Samples an epoch.
        seed: The run's seed.
        name: Name of the source, so that two sources of one length differ.
    """

    def __init__(self, length: int, seed: int, name: str = "default") -> None:
        self.length = length
        self.seed = seed
        self.name = name
        self._epochs: dict[int, Permutation] = {}

    def __call__(self, place: int) -> int:
        """Index of the sample at position `place` of the stream, counted from 0 over all epochs."""
        epoch, within = divmod(place, self.length)
        if epoch not in self._epochs:
            self._epochs.pop(epoch - 2, None)  # a step may straddle two epochs
            self._epochs[epoch] = Permutation(self.length, "order", self.seed, self.name, epoch)
        return self._epochs[epoch](within)

    def replacement(self, place: int, attempt: int) -> int:
        """Index to read instead, if the sample at `place` is bad; `attempt` counts from 1."""
        return integer("replacement", self.seed, self.name, place, attempt) % self.length
