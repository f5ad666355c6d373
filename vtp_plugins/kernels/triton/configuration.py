"""Tile sizes of the kernels, by architecture, dtype and width; the gate compiles each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal[80, 90, 100]
"""Compute capability times ten; others take the settings of the nearest one below."""

ARCHITECTURES: tuple[Architecture, ...] = (80, 90, 100)

Number = Literal["float32", "bfloat16", "float16"]

SHARED_MEMORY: dict[Architecture, int] = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have."""

HEAD_WIDTHS = (32, 128)
"""Smallest and largest head width of the attention kernels."""

POSITION_TOKENS = 32
"""Tokens of a program that norms and rotates."""


Screen = Literal["bfloat16", "tf32x3", "float32"]
"""Arithmetic of the search's screen."""

LANES = 8
"""Groups of codes that the screen keeps apart for each row."""

FRAME_ROWS = 16
"""Vectors of a program that moves them to the frame."""

SETTLE_ROWS = 8
"""Rows of a program that evaluates what the screen left."""


@dataclass(frozen=True)
class ScreenTiles:
    """Tile sizes of the screen or the sweep of the search.

    Attributes:
        rows: Vectors of a tile.
        codes: Codes of a block.
        columns: Width of a step of the matrix product; vectors are padded to a multiple.
        warps: Warps of a program.
        stages: Tiles in flight.
    """

    rows: int
    codes: int
    columns: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of an attention kernel.

    Attributes:
        queries: Queries of a tile.
        keys: Keys of a tile.
        warps: Warps of a program.
        stages: Tiles in flight.
    """

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class AttentionTiles:
    """Settings of the three attention kernels."""

    forward: Tiles
    backward_queries: Tiles
    backward_keys: Tiles


def nearest_architecture(capability: tuple[int, int]) -> Architecture:
    """The architecture whose settings are used for a GPU of this compute capability.

    12.x has the shared memory and the instructions of 8.x, not those of 10.x.
    """
    major, _ = capability
    return 80 if major < 9 or major >= 12 else 90 if major == 9 else 100


def padded_width(width: int) -> int:
    """The power of two that holds a head."""
    return 1 << (width - 1).bit_length()


def aligned_width(width: int) -> bool:
    """Whether Triton can assume that contiguous rows of this width begin at aligned addresses.

    It specialises integers on whether 16 divides them, and nothing finer.
    """
    return width % 16 == 0


def attention_tiles(architecture: Architecture, number: Number, width: int) -> AttentionTiles:
    """Settings for heads of `width`: of the tiles tried, the largest that spill nothing or least."""
    padded = padded_width(width)
    if not aligned_width(width):
        return _UNALIGNED_TILES[number == "float32", padded]
    if number == "float32":
        return _FLOAT32_TILES[architecture, 96 if 64 < width < 128 else width]
    if padded <= 64:
        stages = 2 if architecture == 100 and width == 48 else 3
        return AttentionTiles(Tiles(128, 64, 8, stages), Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 2))
    if architecture == 80:
        return AttentionTiles(Tiles(128, 64, 8, 2), Tiles(64, 32, 4, 2), Tiles(64, 64, 8, 2))
    return AttentionTiles(Tiles(128, 64, 8, 2), Tiles(64, 64, 4, 2), Tiles(64, 64, 8, 2))


_UNALIGNED_TILES: dict[tuple[bool, int], AttentionTiles] = {
    (False, 64): AttentionTiles(Tiles(128, 64, 8, 3), Tiles(64, 64, 8, 2), Tiles(32, 64, 8, 2)),
    (False, 128): AttentionTiles(Tiles(64, 32, 8, 2), Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 2)),
    (True, 64): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2)),
    (True, 128): AttentionTiles(Tiles(16, 32, 8, 2), Tiles(16, 16, 8, 2), Tiles(16, 16, 8, 2)),
}
"""By whether numbers are float32 and the padded width, for every architecture.

Such rows are read value by value, with an address in registers for each, so tiles must be smaller still.
"""

_FLOAT32_TILES: dict[tuple[Architecture, int], AttentionTiles] = {
    (80, 32): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2)),
    (90, 32): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2)),
    (100, 32): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(64, 64, 8, 2)),
    (80, 48): AttentionTiles(Tiles(64, 32, 8, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2)),
    (90, 48): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 8, 2)),
    (100, 48): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 8, 2), Tiles(32, 64, 8, 2)),
    (80, 64): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2)),
    (90, 64): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 8, 2)),
    (100, 64): AttentionTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 8, 2), Tiles(32, 64, 8, 2)),
    (80, 96): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 1), Tiles(16, 16, 4, 2)),
    (90, 96): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 16, 8, 2), Tiles(16, 16, 4, 2)),
    (100, 96): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 16, 8, 2), Tiles(16, 16, 4, 2)),
    (80, 128): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2), Tiles(16, 16, 4, 2)),
    (90, 128): AttentionTiles(Tiles(64, 32, 8, 2), Tiles(32, 16, 4, 2), Tiles(16, 16, 4, 2)),
    (100, 128): AttentionTiles(Tiles(32, 32, 8, 2), Tiles(32, 16, 8, 2), Tiles(16, 16, 4, 2)),
}
"""By width; 96 for all between 64 and 128, which need masks.

Three products of TF32 parts hold each operand twice in registers, so tiles must be small.
"""


def screen_tiles(architecture: Architecture, screen: Screen, width: int) -> ScreenTiles:
    """Settings of the screen for vectors of `width`."""
    columns = max(16, padded_width(width))
    if screen == "bfloat16":
        return ScreenTiles(128, 128, min(columns, 64), 8, 3)
    if screen == "tf32x3":
        return ScreenTiles(128, 64 if architecture == 80 else 128, min(columns, 32), 8, 3)
    return ScreenTiles(64, 64, 16 if architecture == 80 else min(columns, 32), 4, 2)


def sweep_tiles(architecture: Architecture, width: int) -> ScreenTiles:
    """Settings of the sweep over the rows that the screen leaves undecided."""
    columns = min(max(16, padded_width(width)), 32)
    if architecture == 80:
        return ScreenTiles(32, 32, columns, 4, 1)
    # In one step of the product on 10.x, more warps have too few registers each.
    return ScreenTiles(64, 64, columns, 4 if architecture == 100 and width <= 32 else 8, 2)


def frame_columns(padded: int) -> int:
    """Columns of a step of the frame's kernel: a power of two that divides the padded width."""
    return min(64, padded & -padded)
