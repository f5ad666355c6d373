"""The kernels of the search, with a case for each kind of launch that compiles to other code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vtp_plugins.kernels.triton.configuration import (
    FRAME_ROWS,
    LANES,
    SETTLE_ROWS,
    Architecture,
    Screen,
    frame_columns,
    screen_tiles,
    sweep_tiles,
)
from vtp_plugins.kernels.triton.gate.case import POINTERS, GateCase

_INT32 = ("block_ptr", "left_ptr", "left_count_ptr")
_FLOAT64 = ("inverse_ptr", "x_inverse_ptr", "c_inverse_ptr", "weight_ptr", "centre_ptr", "scale_ptr")
_FLOAT32 = (
    *("bound_ptr", "bias_ptr", "row_bound_ptr", "block_bound_ptr", "upper_ptr", "other_ptr", "low_ptr"),
    *("row_low_ptr", "distance_ptr", "x_ptr", "c_ptr", "operand_ptr"),
)
_SEARCH_TYPES = {
    **dict.fromkeys(_INT32, "*i32"),
    **dict.fromkeys(_FLOAT64, "*fp64"),
    **dict.fromkeys(_FLOAT32, "*fp32"),
    **dict.fromkeys(("gamma", "epsilon", "smallest"), "fp32"),
    "index_ptr": "*i64",
}
_SEARCH_COUNTS = frozenset(
    {"count", "width", "blocks", "share", "rows_count", "codes_count", "gamma", "epsilon", "smallest"}
)
_STRIDES = frozenset({"row_stride", "column_stride", "x_row", "x_column", "c_row", "c_column"})
_CONTIGUOUS = {"x_column": 1, "c_column": 1}
"""Triton compiles arguments that are 1 as constants."""


def screen_cases(architecture: Architecture) -> Iterator[GateCase]:
    """The screens, for vectors padded to one step of the product and for those that take several."""
    screens: tuple[Screen, ...] = ("bfloat16", "tf32x3", "float32")
    for screen in screens:
        for width in (8, 32, 64, 256) if screen == "bfloat16" else (8, 32, 256):
            tiles = screen_tiles(architecture, screen, width)
            operands = "*bf16" if screen == "bfloat16" else "*fp32"
            for splits in (1, 8) if width == 64 else (1,):
                yield GateCase(
                    name=f"sm_{architecture} search_screen {screen} d{width} splits{splits}",
                    module="search_screen",
                    kernel="search_screen",
                    architecture=architecture,
                    constants={
                        "SPLITS": splits,
                        "PADDED": -(-width // tiles.columns) * tiles.columns,
                        "ROWS": tiles.rows,
                        "CODES": tiles.codes,
                        "COLUMNS": tiles.columns,
                        "LANES": LANES,
                        "PRECISION": "tf32x3" if screen == "tf32x3" else "ieee",
                    },
                    types=_SEARCH_TYPES | {"x_ptr": operands, "c_ptr": operands},
                    unaligned=_SEARCH_COUNTS,
                    warps=tiles.warps,
                    stages=tiles.stages,
                    tensor_cores=screen != "float32",
                )


def exact_cases(architecture: Architecture) -> Iterator[GateCase]:
    """The kernels before and after the screen: each metric, then each other kind of input."""
    for metric in ("l2", "weighted", "cosine"):
        usual = _Input(architecture, metric)
        # The frame of `weighted` differs from that of `l2` in values only.
        for of_codes in (False, True) if metric != "weighted" else ():
            yield _frame(usual, of_codes=of_codes)
        for splits in (1, 8) if metric == "l2" else (1,):
            yield _settle(usual, splits=splits)
        yield _sweep(usual)
    for other in (
        *(_Input(architecture, "l2", number) for number in ("bfloat16", "float16", "float64")),
        _Input(architecture, "cosine", "float64"),
        _Input(architecture, "l2", width=40),
        _Input(architecture, "l2", strided=True),
    ):
        yield _frame(other, of_codes=True)
        yield _settle(other)
        yield _sweep(other)
    # Vectors of one step of the product, in 16 columns and in 32.
    yield _frame(_Input(architecture, "l2", width=8), of_codes=True)
    for width in (8, 32):
        yield _sweep(_Input(architecture, "l2", width=width))
    # Operands in float32, and blocks of fewer codes.
    yield _frame(_Input(architecture, "l2", screen="float32"), of_codes=True)
    yield _settle(_Input(architecture, "l2", screen="float32"))


@dataclass(frozen=True)
class _Input:
    """What is searched.

    Attributes:
        architecture: What the kernels are compiled for.
        metric: Of the distance.
        number: Dtype of vectors and codes.
        width: Of both. 16 doesn't divide 8 and 40: their rows aren't aligned.
        strided: Whether the values of a row lie apart.
        screen: Arithmetic of the screen.
    """

    architecture: Architecture
    metric: str
    number: str = "float32"
    width: int = 64
    strided: bool = False
    screen: Screen = "bfloat16"

    def shared(self, kernel: str, detail: str = "") -> dict[str, Any]:
        """What the cases of the three kernels have in common; their names say what is unusual."""
        pointer = f"*{POINTERS[self.number]}"
        distance = "*fp64" if self.number == "float64" else "*fp32"
        words = (
            *(f"sm_{self.architecture}", kernel, self.metric, detail),
            self.number if self.number != "float32" else "",
            f"d{self.width}" if self.width != 64 else "",
            "strided" if self.strided else "",
            f"{self.screen} screen" if self.screen != "bfloat16" else "",
        )
        unaligned = _SEARCH_COUNTS if self.width % 16 == 0 and not self.strided else _SEARCH_COUNTS | _STRIDES
        return {
            "name": " ".join(word for word in words if word),
            "kernel": kernel,
            "architecture": self.architecture,
            "types": _SEARCH_TYPES | {"x_ptr": pointer, "c_ptr": pointer, "distance_ptr": distance},
            "unaligned": unaligned,
            "fusion": False,
        }


def _frame(given: _Input, *, of_codes: bool) -> GateCase:
    columns = screen_tiles(given.architecture, given.screen, given.width).columns
    padded = -(-given.width // columns) * columns
    shared = given.shared("search_frame", "codes" if of_codes else "vectors")
    operands = {"operand_ptr": "*bf16" if given.screen == "bfloat16" else "*fp32"}
    return GateCase(
        module="search_frame",
        constants={
            "PADDED": padded,
            "COLUMNS": frame_columns(padded),
            "ROWS": FRAME_ROWS,
            "METRIC": given.metric,
            "CODES": of_codes,
            **({} if given.strided else {"column_stride": 1}),
        },
        warps=4,
        stages=3,
        **{**shared, "types": shared["types"] | operands},
    )


def _settle(given: _Input, *, splits: int = 1) -> GateCase:
    return GateCase(
        module="search_settle",
        constants={
            "SPLITS": splits,
            "LANES": LANES,
            "CODES": screen_tiles(given.architecture, given.screen, given.width).codes,
            "ROWS": SETTLE_ROWS,
            "METRIC": given.metric,
            **({} if given.strided else _CONTIGUOUS),
        },
        warps=4,
        stages=3,
        **given.shared("search_settle", f"splits{splits}"),
    )


def _sweep(given: _Input) -> GateCase:
    tiles = sweep_tiles(given.architecture, given.width)
    return GateCase(
        module="search_settle",
        constants={
            "PADDED": -(-given.width // tiles.columns) * tiles.columns,
            "ROWS": tiles.rows,
            "CODES": tiles.codes,
            "COLUMNS": tiles.columns,
            "METRIC": given.metric,
            "PRECISION": "tf32x3",
            **({} if given.strided else _CONTIGUOUS),
        },
        warps=tiles.warps,
        stages=tiles.stages,
        tensor_cores=True,
        **given.shared("search_sweep"),
    )
