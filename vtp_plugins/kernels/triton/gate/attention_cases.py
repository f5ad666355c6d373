"""The attention kernels with every setting that a run may launch them with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vtp_plugins.kernels.triton.configuration import (
    HEAD_WIDTHS,
    POSITION_TOKENS,
    Architecture,
    Number,
    Tiles,
    attention_tiles,
    padded_width,
)
from vtp_plugins.kernels.triton.gate.case import Case

_POINTERS: Mapping[Number, str] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

_STATISTICS = dict.fromkeys(("lse_ptr", "dlse_ptr", "delta_ptr"), "*fp32")
_COUNTS = frozenset({"tokens", "heads", "tiles", "still", "scale", "lse_batch", "lse_head", "lse_token"})


def attention_cases(architecture: Architecture) -> Iterator[Case]:
    """Forward and backward, for each dtype and the usual head widths."""
    numbers: tuple[Number, ...] = ("bfloat16", "float16", "float32")
    for number in numbers:
        pointers = "q k v out dout dq dk dv".split()
        types = {f"{name}_ptr": f"*{_POINTERS[number]}" for name in pointers}
        types |= _STATISTICS | {"offsets_ptr": "*i32", "scale": "fp32"}
        for width in (32, 64, 96, 128) if number != "float16" else (64,):
            tiles = attention_tiles(architecture, number, width)
            kernels: tuple[tuple[str, str, Tiles], ...] = (
                ("attention_forward", "attention_forward", tiles.forward),
                ("attention_backward", "attention_backward_queries", tiles.backward_queries),
                ("attention_backward", "attention_backward_keys", tiles.backward_keys),
            )
            for module, kernel, cut in kernels:
                for packed in (False, True) if (number, width) == ("bfloat16", 64) else (False,):
                    yield Case(
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
                        unaligned=_COUNTS,
                        warps=cut.warps,
                        stages=cut.stages,
                        tensor_cores=True,
                    )


def query_key_cases(architecture: Architecture) -> Iterator[Case]:
    """Norm and rotation, for the smallest and the largest head width."""
    for kernel in ("query_key_forward", "query_key_backward"):
        for width in HEAD_WIDTHS:
            constants = {"WIDTH": width, "PADDED": padded_width(width), "TOKENS": POSITION_TOKENS}
            pointers = ("x_ptr", "out_ptr", "dout_ptr", "dx_ptr", "weight_ptr", "cos_ptr", "sin_ptr")
            yield Case(
                name=f"sm_{architecture} {kernel} bfloat16 d{width}",
                module="query_key",
                kernel=kernel,
                architecture=architecture,
                constants={**constants, "NORM": True, "ROPE": True, "EPSILON": 1e-5},
                types=dict.fromkeys(pointers, "*bf16") | {"dweight_ptr": "*fp32"},
                unaligned=_COUNTS,
                warps=4,
                stages=1,
            )
