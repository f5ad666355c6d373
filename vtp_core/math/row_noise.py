"""Random numbers of rows: the same at any world size, in any row chunks and on any device.

A number is a hash of (row seed, draw, position): nothing is drawn in order, so no generator has a state.
Source of the hash: SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def row_seeds(key: int, rows: Tensor) -> Tensor:
    """Seeds of rows.

    Args:
        key: Any integer of 63 bits: what the numbers are for.
        rows: (B,) int64, global row numbers.

    Returns:
        (B,) int64 on the same device.
    """
    return _mix(_mix(torch.full_like(rows, key)) + rows)


def row_rand(seeds: Tensor, *shape: int, draw: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24.

    Args:
        seeds: (B,) int64, from `row_seeds`.
        shape: Shape of a row.
        draw: Different draws from the same seeds are independent.
        dtype: Of the result.

    Returns:
        (B, *shape) on the device of `seeds`.
    """
    numbers = _shifted(_bits(seeds, shape, draw), 40).to(dtype) * 2.0**-24
    return numbers.view(len(seeds), *shape)


def row_randn(seeds: Tensor, *shape: int, draw: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers by Box and Muller's transform; arguments as of `row_rand`."""
    bits = _bits(seeds, shape, draw)
    radius = ((_shifted(bits, 32).to(dtype) + 0.5) * 2.0**-32).log().mul(-2).sqrt()
    angle = (bits & 0xFFFFFFFF).to(dtype) * (2 * math.pi * 2.0**-32)
    return (radius * angle.cos()).view(len(seeds), *shape)


def _bits(seeds: Tensor, shape: tuple[int, ...], draw: int) -> Tensor:
    """(B, numbers of a row) of 64 random bits."""
    place = torch.arange(1, math.prod(shape) + 1, device=seeds.device)
    start = _mix(seeds + _signed((draw + 1) * 0xD1B54A32D192ED03))
    return _mix(start[:, None] + place * _signed(0x9E3779B97F4A7C15))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The 64 low bits of an integer as a signed one."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
