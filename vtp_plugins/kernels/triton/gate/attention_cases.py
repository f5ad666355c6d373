"""The attention kernels, with a case for each kind of launch that compiles to other code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vtp_plugins.kernels.triton.configuration import (
    HEAD_WIDTHS,
    POSITION_TOKENS,
    Architecture,
    Number,
    Tiles,
    aligned_width,
    attention_tiles,
    padded_width,
)
from vtp_plugins.kernels.triton.gate.case import POINTERS, GateCase

_ROWS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv")
_TENSORS = (*_ROWS, "x", "dx")
_STATISTICS = dict.fromkeys(("lse_ptr", "dlse_ptr", "delta_ptr"), "*fp32")
_COUNTS = frozenset({"tokens", "heads", "tiles", "still", "scale", "lse_batch", "lse_head", "lse_token"})
_STRIDES = frozenset(f"{name}_{axis}" for name in _TENSORS for axis in ("batch", "head", "token"))

_LAYOUTS: Mapping[tuple[Number, int], tuple[bool, ...]] = {
    ("bfloat16", 32): (False,),
    ("bfloat16", 40): (False,),
    ("bfloat16", 48): (False,),
    ("bfloat16", 64): (False, True),
    ("bfloat16", 72): (False,),
    ("bfloat16", 96): (False, True),
    ("bfloat16", 128): (False,),
    ("float16", 64): (False,),
    ("float16", 128): (True,),
    ("float32", 32): (False,),
    ("float32", 40): (False,),
    ("float32", 48): (False,),
    ("float32", 64): (False, True),
    ("float32", 72): (True,),
    ("float32", 96): (False,),
    ("float32", 128): (False, True),
}
"""Whether sequences are packed, for each dtype and head width.

A width of each kind: powers of two; those between them, which need masks (48, 96); those whose rows
aren't aligned either (40, 72). Each kind is packed in some dtype, not in all of them.
"""

_PREPARED: tuple[tuple[Number, Number, int, tuple[str, ...]], ...] = (
    *(("bfloat16", "bfloat16", width, ("NORM", "ROPE")) for width in HEAD_WIDTHS),
    ("bfloat16", "bfloat16", 128, ("NORM",)),
    ("bfloat16", "bfloat16", 128, ("ROPE",)),
    ("bfloat16", "float32", 128, ("NORM", "ROPE")),
    ("float16", "float16", 128, ("NORM", "ROPE")),
    *(("float32", "float32", width, ("NORM", "ROPE")) for width in (72, 128)),
)
"""Dtype, that of the norm's weight and the rotary tables, head width, and what is done."""


def attention_cases(architecture: Architecture) -> Iterator[GateCase]:
    """Forward and backward, with strides as those of contiguous tensors."""
    for (number, width), layouts in _LAYOUTS.items():
        types = {f"{name}_ptr": f"*{POINTERS[number]}" for name in _ROWS}
        types |= _STATISTICS | {"offsets_ptr": "*i32", "scale": "fp32"}
        tiles = attention_tiles(architecture, number, width)
        kernels: tuple[tuple[str, str, Tiles], ...] = (
            ("attention_forward", "attention_forward", tiles.forward),
            ("attention_backward", "attention_backward_queries", tiles.backward_queries),
            ("attention_backward", "attention_backward_keys", tiles.backward_keys),
        )
        for module, kernel, cut in kernels:
            for packed in layouts:
                yield GateCase(
                    name=f"sm_{architecture} {kernel} {number} d{width}{' packed' if packed else ''}",
                    module=module,
                    kernel=kernel,
                    architecture=architecture,
                    constants={
                        "WIDTH": width,
                        "PADDED": padded_width(width),
                        "QUERIES": cut.queries,
                        "KEYS": cut.keys,
                        "PACKED": packed,
                        "PRECISION": "tf32x3" if number == "float32" else "ieee",
                        # Triton compiles arguments that are 1 as constants.
                        "lse_head" if packed else "lse_token": 1,
                    },
                    types=types,
                    unaligned=_COUNTS if aligned_width(width) else _COUNTS | _STRIDES,
                    warps=cut.warps,
                    stages=cut.stages,
                    tensor_cores=True,
                )


def query_key_cases(architecture: Architecture) -> Iterator[GateCase]:
    """Norm and rotation, together and each alone."""
    pointers = ("x_ptr", "out_ptr", "dout_ptr", "dx_ptr")
    for kernel in ("query_key_forward", "query_key_backward"):
        for number, other, width, steps in _PREPARED:
            name = f"sm_{architecture} {kernel} {number} d{width}"
            name += f" {other} tables" if other != number else ""
            name += f" {steps[0].lower()} only" if len(steps) == 1 else ""
            weights = dict.fromkeys(("weight_ptr", "cos_ptr", "sin_ptr"), f"*{POINTERS[other]}")
            yield GateCase(
                name=name,
                module="query_key",
                kernel=kernel,
                architecture=architecture,
                constants={
                    "WIDTH": width,
                    "PADDED": padded_width(width),
                    "TOKENS": POSITION_TOKENS,
                    "NORM": "NORM" in steps,
                    "ROPE": "ROPE" in steps,
                    "EPSILON": 1e-5,
                },
                types=dict.fromkeys(pointers, f"*{POINTERS[number]}") | weights | {"dweight_ptr": "*fp32"},
                unaligned=_COUNTS if aligned_width(width) else _COUNTS | _STRIDES,
                warps=4,
                stages=1,
            )
