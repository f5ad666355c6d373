"""The search by Triton kernels: frame, screen, settle, sweep; no step waits for the GPU. Needs triton."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from vtp_core.ops.nearest_code_distance import widened
from vtp_plugins.kernels.triton.availability import interpreted
from vtp_plugins.kernels.triton.configuration import (
    FRAME_ROWS,
    LANES,
    SETTLE_ROWS,
    Architecture,
    Screen,
    ScreenTiles,
    frame_columns,
    nearest_architecture,
    screen_tiles,
    sweep_tiles,
)
from vtp_plugins.kernels.triton.device.search_frame import search_frame
from vtp_plugins.kernels.triton.device.search_screen import search_screen
from vtp_plugins.kernels.triton.device.search_settle import search_settle, search_sweep

CENTRE_SAMPLE = 64
"""Codes whose median is the centre of the frame and whose spread is its unit."""

MOST_SPLITS = 8
"""Largest number of parts into which the codes are split when there are few rows."""

EXACT = {"enable_fp_fusion": False}
"""For kernels that compute distances: the definition rounds each product and each sum."""


class _Frame(NamedTuple):
    """Origin and scale of the coordinates in which the search compares.

    Attributes:
        centre: (D,) float64, m.
        scale: (D,) float64, s.
        weight: (D,) float64; any tensor unless the metric is ``weighted``.
        lost: () float32, what squares can lose to underflow in the defined distance, in units of the scores.
        metric: Of the distance.
    """

    centre: Tensor
    scale: Tensor
    weight: Tensor
    lost: Tensor
    metric: str


class _Side(NamedTuple):
    """Vectors or codes in the frame.

    Attributes:
        operand: (padded count, padded width), what the matrix unit multiplies.
        bounds: (3 or 4, padded count) float32.
        bias: (padded count,) float32; of codes.
        inverse: (count,) float64 inverse norms; empty unless the metric is ``cosine``.
    """

    operand: Tensor
    bounds: Tensor
    bias: Tensor
    inverse: Tensor


def search(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, screen: Screen
) -> tuple[Tensor, Tensor]:
    """Exact index and distance, as `vtp_core.ops.nearest_code_choice.RunSearch` states it.

    Args:
        vectors: (N, D), N >= 1.
        codebook: (K, D).
        metric: ``"l2"``, ``"cosine"`` or ``"weighted"``.
        weight: (D,) float64 or None.
        screen: Arithmetic of the screen; the result is the same with each.
    """
    capability = (8, 0) if interpreted() else torch.cuda.get_device_capability(vectors.device)
    architecture = nearest_architecture(capability)
    if metric == "cosine" and vectors.dtype == torch.float64:
        vectors, codebook = _within_range(vectors), _within_range(codebook)
    with torch.cuda.device_of(vectors):
        return _search(
            vectors, codebook, _frame(codebook, metric, weight), screen, architecture, _processors(vectors)
        )


def _search(
    vectors: Tensor,
    codebook: Tensor,
    frame: _Frame,
    screen: Screen,
    architecture: Architecture,
    processors: int,
) -> tuple[Tensor, Tensor]:
    (rows, width), codes = vectors.shape, codebook.shape[0]
    tiles, sweep = screen_tiles(architecture, screen, width), sweep_tiles(architecture, width)
    operand = torch.bfloat16 if screen == "bfloat16" else torch.float32
    x = _side(vectors, frame, operand, tiles, screen, codes=False)
    c = _side(codebook, frame, operand, tiles, screen, codes=True)
    padded_rows, padded_width = x.operand.shape
    blocks = c.operand.shape[0] // tiles.codes
    splits = _splits(padded_rows // tiles.rows, blocks, processors)
    # In the sweep, blocks are of another size and codes in float32.
    fine = _side(codebook, frame, torch.float32, sweep, "tf32x3", codes=True)
    slots = (padded_rows, splits, LANES)
    upper, other = (vectors.new_empty(slots, dtype=torch.float32) for _ in range(2))
    home = vectors.new_empty(slots, dtype=torch.int32)
    low = vectors.new_empty(padded_rows, splits, dtype=torch.float32)
    search_screen[(padded_rows // tiles.rows * splits,)](
        x.operand, c.operand, c.bias, x.bounds, _of_blocks(c.bounds, tiles.codes), upper, other, home, low,
        padded_rows, blocks, cdiv(blocks, splits),
        SPLITS=splits, PADDED=padded_width, ROWS=tiles.rows, CODES=tiles.codes, COLUMNS=tiles.columns,
        LANES=LANES, PRECISION=precision(screen), num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    index = vectors.new_empty(rows, dtype=torch.int64)
    distance = vectors.new_empty(rows, dtype=torch.promote_types(vectors.dtype, torch.float32))
    row_low = vectors.new_empty(rows, dtype=torch.float32)
    left, count = vectors.new_empty(rows, dtype=torch.int32), vectors.new_zeros(1, dtype=torch.int32)
    strides = (*vectors.stride(), *codebook.stride())
    search_settle[(cdiv(rows, SETTLE_ROWS),)](
        vectors, codebook, x.inverse, c.inverse, frame.weight, x.bounds, upper, other, home, low,
        index, distance, row_low, left, count, rows, codes, width, *strides,
        SPLITS=splits, LANES=LANES, CODES=tiles.codes, ROWS=SETTLE_ROWS, METRIC=frame.metric,
        num_warps=4, **EXACT,
    )  # fmt: skip
    programs = min(cdiv(rows, sweep.rows), 2 * processors)
    search_sweep[(programs,)](
        vectors, fine.operand, fine.bias, codebook, x.inverse, c.inverse, frame.weight, frame.centre,
        frame.scale, x.bounds, _of_blocks(fine.bounds, sweep.codes), row_low, left, count, index, distance,
        padded_rows, codes, fine.operand.shape[0] // sweep.codes, width, *strides, _epsilon(width),
        PADDED=fine.operand.shape[1], ROWS=sweep.rows, CODES=sweep.codes, COLUMNS=sweep.columns,
        METRIC=frame.metric, PRECISION="tf32x3", num_warps=sweep.warps, num_stages=sweep.stages, **EXACT,
    )  # fmt: skip
    return index, distance


def precision(screen: Screen) -> str:
    """Triton's name for the arithmetic of the screen."""
    return "tf32x3" if screen == "tf32x3" else "ieee"


def _frame(codebook: Tensor, metric: str, weight: Tensor | None) -> _Frame:
    """Near most codes and of their size, so that windows are small; any frame gives the same result."""
    count, width = codebook.shape
    step = max(1, count // CENTRE_SAMPLE)
    sample = widened(codebook[::step][:CENTRE_SAMPLE], metric)
    centre = sample.nanmedian(0).values
    # Half the range of float32 and more would leave nothing of the differences.
    centre = torch.where(centre.abs() < 2.0**500, centre, 0.0)
    scale = torch.ones_like(centre) if weight is None else weight.sqrt()
    lost = torch.zeros_like(centre[0])
    if metric != "cosine":
        spread = ((sample - centre) * scale).abs()
        largest = torch.where(spread < 2.0**900, spread, 0.0).amax()
        exponent = torch.where(largest > 0, largest.log2().round(), 0.0).clamp(-960, 960)
        heaviest = 1.0 if weight is None else weight.amax().clamp(min=1.0)
        # In parts that stay in range.
        lost = torch.exp2(-exponent - 500).square() * (8 * (width + 16) * 2.0**-22) * heaviest
        scale = scale * torch.exp2(-exponent)
    return _Frame(centre, scale, centre if weight is None else weight, lost.to(torch.float32), metric)


def _side(
    vectors: Tensor, frame: _Frame, operand: torch.dtype, tiles: ScreenTiles, screen: Screen, *, codes: bool
) -> _Side:
    (count, width), tile = vectors.shape, tiles.codes if codes else tiles.rows
    padded_count, padded_width = cdiv(count, tile) * tile, cdiv(width, tiles.columns) * tiles.columns
    cosine = frame.metric == "cosine"
    side = _Side(
        vectors.new_empty(padded_count, padded_width, dtype=operand),
        vectors.new_empty(3 if codes else 4, padded_count, dtype=torch.float32),
        vectors.new_empty(padded_count if codes else 0, dtype=torch.float32),
        vectors.new_empty(count if cosine else 0, dtype=torch.float64),
    )
    gamma, epsilon, smallest = search_bounds(width, padded_width, screen, cosine=cosine)
    # An empty tensor has no address; those that are not read may be any.
    search_frame[(cdiv(padded_count, FRAME_ROWS),)](
        vectors, side.operand, side.bounds, side.bias if codes else side.bounds,
        side.inverse if cosine else frame.centre, frame.centre, frame.scale,
        count, padded_count, width, *vectors.stride(), gamma, epsilon, smallest,
        PADDED=padded_width, COLUMNS=frame_columns(padded_width), ROWS=FRAME_ROWS, METRIC=frame.metric,
        CODES=codes, num_warps=4, **EXACT,
    )  # fmt: skip
    if codes:
        side.bounds[2, :count] += frame.lost
    if frame.metric == "weighted" and vectors.dtype == torch.float64:
        # Squares overflow before a small weight makes them harmless: compared with everything.
        far = ~((vectors - frame.centre).abs().amax(-1) < 2.0**500)
        side.bounds[2 if codes else 0, :count].masked_fill_(far & ~vectors.isnan().any(-1), torch.inf)
    return side._replace(inverse=side.inverse if cosine else frame.centre)


def search_bounds(width: int, padded: int, screen: Screen, *, cosine: bool) -> tuple[float, float, float]:
    """Constants of the screen's error bounds: gamma, epsilon, smallest.

    gamma: Error of a matrix product of n = `padded` terms with operands x, c and start b, over |x||c| + |b|.
    Tensor cores align the terms of an instruction to the largest, cut them after 23 bits or more and cut
    their sum as well: at most (terms + 2) 2^-23 an instruction, below (n + 16) 2^-22 in all if it has 4 terms
    or more. FMA in float32 stays below half of that. Three products of TF32 parts do it thrice, and leave out
    less than 2^-20.

    epsilon: Error of the defined distance and of the frame's float64, over (|x'| + |c'|)^2: (D + 8) 2^-53 for
    the distance's own sum, 2^-52 for each factor of the frame.

    smallest: What underflow costs, over (1 + |x'|) (1 + |c'|): D 2^-118 with denormals flushed to zero. For
    ``cosine`` the rounding of the unit vectors as well, (D + 16) 2^-50.
    """
    instructions = 3 if screen == "tf32x3" else 1
    left_out = 2.0**-18 if screen == "tf32x3" else 0.0
    gamma = instructions * (padded + 16) * 2.0**-22 + left_out
    smallest = width * 2.0**-118 + ((width + 16) * 2.0**-48 if cosine else 0.0)
    return gamma, _epsilon(width), smallest


def _epsilon(width: int) -> float:
    return (width + 16) * 2.0**-51


def _of_blocks(bounds: Tensor, codes: int) -> Tensor:
    """(3, blocks): the largest bounds of the codes of each block."""
    return bounds.view(3, -1, codes).amax(-1)


def _processors(x: Tensor) -> int:
    """Estimated number of programs that run at the same time."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _splits(row_tiles: int, blocks: int, processors: int) -> int:
    """Parts of the codes, a power of two, so that every processor has work."""
    return min(next_power_of_2(max(1, 2 * processors // row_tiles)), next_power_of_2(blocks), MOST_SPLITS)


def _within_range(vectors: Tensor) -> Tensor:
    """Float64 vectors times powers of two as ``cosine`` defines them, whose squares are in range."""
    largest = vectors.abs().amax(-1, keepdim=True)
    one = torch.ones_like(largest)
    scale = torch.where(largest > 2.0**500, one * 2.0**-600, one)
    return vectors * torch.where(largest < 2.0**-500, one * 2.0**600, scale)
