"""Block masks: counts fill the bins, masks keep to them, and any world size sees the same."""

from __future__ import annotations

import math
import random

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.data.crops.masks import block_mask, draw_masks, patch_counts
from vtp_core.data.draw import generator
from vtp_core.recipe.tables.views import MaskConfig

GRIDS = st.tuples(st.integers(2, 20), st.integers(2, 20))


@given(grid=GRIDS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_block_mask_never_exceeds_its_count(grid: tuple[int, int], share: float, seed: int) -> None:
    count = int(share * grid[0] * grid[1])
    mask = block_mask(count, grid, generator("test", seed))
    assert mask.shape == grid
    assert mask.sum() <= count


def test_block_mask_comes_near_its_count() -> None:
    counts = [60, 30, 100]
    reached = [
        block_mask(count, (16, 16), generator(count, seed)).sum() for count in counts for seed in range(50)
    ]
    assert numpy.mean(reached) > 0.9 * numpy.mean(counts)


def _plain_mask(count: int, side: int, rng: random.Random) -> set[tuple[int, int]]:
    """iBOT's masking generator in plain Python: blocks of area 4 to what is missing, whichever is larger."""
    mask: set[tuple[int, int]] = set()
    while len(mask) < count:
        most, before = min(count - len(mask), side * side // 2), len(mask)
        for _ in range(10):
            area, aspect = rng.uniform(4, most), math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < side and width < side:
                top, left = rng.randint(0, side - height), rng.randint(0, side - width)
                block = {(top + i, left + j) for i in range(height) for j in range(width)}
                if 0 < len(block - mask) <= most:
                    mask |= block
                    break
        if len(mask) == before:
            break
    return mask


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_masks_are_distributed_as_those_of_the_plain_algorithm(count: int) -> None:
    """Compared: how many patches are masked, and how many pairs of neighbours are among them."""

    def statistics(cells: set[tuple[int, int]]) -> tuple[int, int]:
        return len(cells), sum(((i + 1, j) in cells) + ((i, j + 1) in cells) for i, j in cells)

    rng, draws = random.Random(0), 1500
    plain = [statistics(_plain_mask(count, 8, rng)) for _ in range(draws)]
    ours = []
    for seed in range(draws):
        mask = block_mask(count, (8, 8), generator("plain", count, seed))
        ours.append(statistics({(int(i), int(j)) for i, j in numpy.argwhere(mask)}))
    for number in range(2):
        found, expected = (numpy.array([each[number] for each in all_of]) for all_of in (ours, plain))
        error = numpy.sqrt((found.var() + expected.var()) / draws)
        assert abs(found.mean() - expected.mean()) <= 4 * error + 1e-9, number


def test_masks_are_made_of_blocks() -> None:
    """A masked patch has a masked neighbour; scattered patches of the same count would often have none."""
    lonely = total = 0
    for seed in range(30):
        mask = numpy.pad(block_mask(40, (14, 14), generator(seed)), 1)
        near = mask[:-2, 1:-1] | mask[2:, 1:-1] | mask[1:-1, :-2] | mask[1:-1, 2:]
        inner = mask[1:-1, 1:-1]
        lonely += int((inner & ~near).sum())
        total += int(inner.sum())
    assert lonely < 0.05 * total


@given(crops=st.integers(1, 300), patches=st.integers(4, 400), seed=st.integers(0, 1000))
def test_counts_fill_equal_bins(crops: int, patches: int, seed: int) -> None:
    config = MaskConfig(ratio=(0.1, 0.5), probability=0.5)
    counts = patch_counts(config, crops, patches, seed, 7, "ssl")
    masked = int(crops * 0.5)
    assert len(counts) == crops
    drawn = sorted(counts)[crops - masked :]
    assert sum(sorted(counts)[: crops - masked]) == 0
    edges = numpy.linspace(0.1, 0.5, masked + 1)
    for count, low, high in zip(drawn, edges, edges[1:], strict=False):
        assert int(low * patches - 1e-9) <= count <= int(high * patches + 1e-9)


def test_masked_crops_are_shuffled() -> None:
    config = MaskConfig()
    first = [patch_counts(config, 8, 64, 0, step, "ssl")[0] > 0 for step in range(400)]
    assert 140 < sum(first) < 260


@given(rows=st.sampled_from([4, 8, 12]), step=st.integers(0, 10**6))
def test_world_sizes_see_the_same_masks(rows: int, step: int) -> None:
    def draw(wanted: range) -> tuple[numpy.ndarray, numpy.ndarray]:
        return draw_masks(MaskConfig(), rows, 2, (6, 6), seed=1, step=step, view="ssl", wanted=wanted)

    mask, weight = draw(range(rows))
    for world in (2, 4):
        for rank in range(world):
            part, part_weight = draw(range(rank, rows, world))
            numpy.testing.assert_array_equal(part, mask[rank::world])
            numpy.testing.assert_array_equal(part_weight, weight[rank::world])


def test_weights_of_a_masked_crop_sum_to_one() -> None:
    mask, weight = draw_masks(MaskConfig(), 16, 2, (8, 8), seed=0, step=0, view="ssl", wanted=range(16))
    total = weight.sum(axis=-1)
    has_any = mask.any(axis=-1)
    numpy.testing.assert_allclose(total[has_any], 1, rtol=1e-6)
    assert (total[~has_any] == 0).all() and (weight[~mask] == 0).all()
    assert has_any.sum() == 16
    assert mask.dtype == numpy.bool_ and weight.dtype == numpy.float32


@pytest.mark.parametrize("probability, ratio", [(0.0, (0.1, 0.5)), (1.0, (0.0, 0.0))])
def test_nothing_masked_is_zeros(probability: float, ratio: tuple[float, float]) -> None:
    config = MaskConfig(probability=probability, ratio=ratio)
    mask, weight = draw_masks(config, 4, 1, (4, 4), seed=0, step=0, view="v", wanted=range(4))
    assert not mask.any() and not weight.any()
