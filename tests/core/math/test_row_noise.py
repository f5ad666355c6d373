"""Random numbers by row, against SplitMix64 in Python's integers and scipy's distributions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from vtp_core.math.row_noise import row_rand, row_randn, row_seeds

MASK = (1 << 64) - 1
ROWS = torch.arange(64)


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def bits(key: int, row: int, draw: int, place: int) -> int:
    seed = mix(mix(key) + row & MASK)
    start = mix(seed + (draw + 1) * 0xD1B54A32D192ED03 & MASK)
    return mix(start + (place + 1) * 0x9E3779B97F4A7C15 & MASK)


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("draw", [0, 3])
def test_numbers_are_those_of_the_hash(key: int, draw: int) -> None:
    rows = torch.tensor([0, 5, 2**40])
    seeds = row_seeds(key, rows)
    uniform = row_rand(seeds, 2, 3, draw=draw, dtype=torch.float64)
    normal = row_randn(seeds, 2, 3, draw=draw, dtype=torch.float64)
    for i, row in enumerate(rows.tolist()):
        for place in range(6):
            value = bits(key, row, draw, place)
            assert uniform[i].flatten()[place].item() == (value >> 40) / 2**24
            radius = math.sqrt(-2 * math.log(((value >> 32) + 0.5) / 2**32))
            expected = radius * math.cos(2 * math.pi * (value & 0xFFFFFFFF) / 2**32)
            assert normal[i].flatten()[place].item() == pytest.approx(expected, abs=1e-12)


def test_they_are_distributed_as_named() -> None:
    seeds = row_seeds(7, ROWS)
    uniform, normal = row_rand(seeds, 2000), row_randn(seeds, 2000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    for pair in (
        torch.corrcoef(normal),
        torch.corrcoef(torch.stack([uniform[0], row_rand(seeds, 2000, draw=1)[0]])),
    ):
        assert (pair - torch.eye(len(pair))).abs().max() < 5.5 / 2000**0.5


def test_a_row_has_its_numbers_wherever_it_is() -> None:
    whole = row_randn(row_seeds(7, ROWS), 3, 4)
    for part in (ROWS[5:9], ROWS[1::3], ROWS.flip(0)):
        assert torch.equal(row_randn(row_seeds(7, part), 3, 4), whole[part])
    assert not torch.equal(row_randn(row_seeds(8, ROWS), 3, 4), whole)


def test_no_rows_and_rows_of_one_number() -> None:
    assert row_rand(row_seeds(7, ROWS[:0]), 3).shape == (0, 3)
    assert row_rand(row_seeds(7, ROWS)).shape == (64,)
