"""The kernels of the search with every setting that a run may launch them with."""

from __future__ import annotations

from collections.abc import Iterator
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
from vtp_plugins.kernels.triton.gate.case import Case

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
_CONTIGUOUS = {"x_column": 1, "c_column": 1}
"""Triton compiles arguments that are 1 as constants."""


def screen_cases(architecture: Architecture) -> Iterator[Case]:
    """The screens, for vectors padded to one step of the product and for those that take several."""
    screens: tuple[Screen, ...] = ("bfloat16", "tf32x3", "float32")
    for screen in screens:
        for width in (8, 32, 64, 256) if screen == "bfloat16" else (8, 32, 256):
            tiles = screen_tiles(architecture, screen, width)
            operands = "*bf16" if screen == "bfloat16" else "*fp32"
            for splits in (1, 8) if width == 64 else (1,):
                yield Case(
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


def exact_cases(architecture: Architecture) -> Iterator[Case]:
    """The kernels before and after the screen, for vectors of width 64 screened in bfloat16."""
    width = 64
    codes, sweep = screen_tiles(architecture, "bfloat16", width).codes, sweep_tiles(architecture, width)
    shared: dict[str, Any] = {
        "architecture": architecture,
        "types": _SEARCH_TYPES,
        "unaligned": _SEARCH_COUNTS,
        "fusion": False,
    }
    for metric in ("l2", "weighted", "cosine"):
        # The frame of `weighted` differs from that of `l2` in values only.
        for of_codes in (False, True) if metric != "weighted" else ():
            yield Case(
                name=f"sm_{architecture} search_frame {metric} {'codes' if of_codes else 'vectors'}",
                module="search_frame",
                kernel="search_frame",
                constants={
                    "PADDED": width,
                    "COLUMNS": frame_columns(width),
                    "ROWS": FRAME_ROWS,
                    "METRIC": metric,
                    "CODES": of_codes,
                    "column_stride": 1,
                },
                warps=4,
                stages=3,
                **{**shared, "types": _SEARCH_TYPES | {"operand_ptr": "*bf16"}},
            )
        for splits in (1, 8) if metric == "l2" else (1,):
            yield Case(
                name=f"sm_{architecture} search_settle {metric} splits{splits}",
                module="search_settle",
                kernel="search_settle",
                constants={
                    "SPLITS": splits,
                    "LANES": LANES,
                    "CODES": codes,
                    "ROWS": SETTLE_ROWS,
                    "METRIC": metric,
                    **_CONTIGUOUS,
                },
                warps=4,
                stages=3,
                **shared,
            )
        yield Case(
            name=f"sm_{architecture} search_sweep {metric}",
            module="search_settle",
            kernel="search_sweep",
            constants={
                "PADDED": width,
                "ROWS": sweep.rows,
                "CODES": sweep.codes,
                "COLUMNS": sweep.columns,
                "METRIC": metric,
                "PRECISION": "tf32x3",
                **_CONTIGUOUS,
            },
            warps=sweep.warps,
            stages=sweep.stages,
            tensor_cores=True,
            **shared,
        )
