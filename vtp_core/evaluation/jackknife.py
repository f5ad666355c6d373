"""Standard errors of numbers that are no means, by the jackknife over parts of the set."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.evaluation.student import widening


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, and what it is without each part of the samples.

    Attributes:
        value: Of all samples.
        without: Of all samples but one part, for the jackknife; empty: no error is known.
    """

    value: float
    without: Sequence[float] = ()

    @property
    def error(self) -> float | None:
        """Standard error, by the jackknife."""
        return jackknife_error(self.without)

    def error_against(self, other: Estimate) -> float | None:
        """Standard error of the difference to another number of the same parts."""
        return jackknife_error([a - b for a, b in zip(self.without, other.without, strict=True)])


def jackknife_error(without: Sequence[float]) -> float | None:
    """Standard error of a number from its values without each part of the samples; None of one part or none.

    A few parts tell the spread badly: it is widened to Student's distribution of one degree of freedom less
    than parts, so that two errors mean the same for any number of them.

    Source:
        Efron and Tibshirani 1993, equation 11.5.
    """
    if len(without) < 2:
        return None
    values = torch.tensor(without, dtype=torch.float64)
    degrees = len(values) - 1
    return float((degrees * values.var(correction=0)).sqrt()) * widening(degrees)


def key_hashes(keys: Sequence[str]) -> Tensor:
    """(B,) int64 CRC-32 of keys; what is left after a division by a number of parts is a sample's part."""
    return torch.tensor([zlib.crc32(key.encode("utf-8", "replace")) for key in keys], dtype=torch.int64)


def parts_of(keys: Sequence[str], count: int) -> Tensor:
    """The part of each sample, (B,) int64 from 0 to `count` - 1, by a hash of its key."""
    return key_hashes(keys) % count
