"""Block masks for masked image modelling, as iBOT and DINOv2 draw them. Imports no torch.

A fraction of the step's global crops is masked, with ratios from equal bins of the recipe's range, one crop
per bin, shuffled over the crops. Everything is drawn over the global rows of the step, so that masks do not
depend on the world size.
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import NDArray

from vtp_core.data.draw import generator
from vtp_core.recipe.tables.views import MaskConfig

_TRIES = 10
_SMALLEST = 4  # patches of a block
_ASPECT = 0.3  # blocks are 0.3 to 1 / 0.3 as wide as high


def patch_counts(config: MaskConfig, crops: int, patches: int, seed: int, step: int, view: str) -> list[int]:
    """Numbers of masked patches of the step's global crops; 0 for a crop that is not masked.

    Args:
        config: Ratios and fraction of masked crops.
        crops: Global crops of the step over all ranks: rows times crops per row.
        patches: Patches of a crop.
        seed: The run's seed.
        step: Index of the step.
        view: Name of the view.

    Returns:
        `crops` numbers in order of (global row, crop).
    """
    rng = generator("mask counts", seed, step, view)
    masked = int(crops * config.probability)
    low, high = config.ratio
    width = (high - low) / max(masked, 1)
    ratios = low + width * (numpy.arange(masked) + rng.random(masked))
    counts = numpy.zeros(crops, dtype=numpy.int64)
    counts[:masked] = (ratios * patches).astype(numpy.int64)
    return [int(count) for count in rng.permutation(counts)]


def block_mask(count: int, grid: tuple[int, int], rng: numpy.random.Generator) -> NDArray[numpy.bool_]:
    """A mask of random rectangles.

    Blocks are added until `count` patches are masked or ten blocks in a row do not fit, so the mask may have
    a few patches less. A block has 4 patches up to the number that is missing, at most half the grid.

    Args:
        count: Largest number of masked patches.
        grid: Patch rows and columns.
        rng: Source of the numbers.

    Returns:
        (rows, columns) bool, True = masked.
    """
    rows, columns = grid
    mask = numpy.zeros(grid, dtype=numpy.bool_)
    missing = count
    while missing > 0:
        added = _add_block(mask, min(missing, rows * columns // 2), rng)
        if added == 0:
            break
        missing -= added
    return mask


def _add_block(mask: NDArray[numpy.bool_], most: int, rng: numpy.random.Generator) -> int:
    rows, columns = mask.shape
    limit = math.log(1 / _ASPECT)
    for _ in range(_TRIES):
        # Also where less than 4 are missing: a larger block fits if it overlaps earlier ones.
        area = _SMALLEST + (most - _SMALLEST) * rng.random()
        aspect = math.exp(rng.uniform(-limit, limit))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        # A block never spans the whole grid in one direction, as in DINOv2.
        if not (0 < height < rows and 0 < width < columns):
            continue
        top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
        block = mask[top : top + height, left : left + width]
        added = block.size - int(block.sum())
        if 0 < added <= most:
            block[:] = True
            return added
    return 0


def draw_masks(
    config: MaskConfig,
    rows: int,
    crops: int,
    grid: tuple[int, int],
    *,
    seed: int,
    step: int,
    view: str,
    wanted: range,
) -> tuple[NDArray[numpy.bool_], NDArray[numpy.float32]]:
    """Masks and weights of some global rows of a step.

    Args:
        config: Ratios and fraction of masked crops.
        rows: Global rows of the view.
        crops: Global crops per row.
        grid: Patch rows and columns of a global crop.
        seed: The run's seed.
        step: Index of the step.
        view: Name of the view.
        wanted: Global rows to draw, those of one rank.

    Returns:
        Mask (len(wanted), crops, patches) bool, True = masked, and weight of the same shape, float32: 1 /
        (masked patches of the crop) where masked, else 0.
    """
    patches = grid[0] * grid[1]
    counts = patch_counts(config, rows * crops, patches, seed, step, view)
    mask = numpy.zeros((len(wanted), crops, patches), dtype=numpy.bool_)
    for place, row in enumerate(wanted):
        for crop in range(crops):
            count = counts[row * crops + crop]
            if count:
                rng = generator("mask", seed, step, view, row, crop)
                mask[place, crop] = block_mask(count, grid, rng).ravel()
    masked = mask.sum(axis=-1, keepdims=True)
    return mask, (mask / numpy.maximum(masked, 1)).astype(numpy.float32)
