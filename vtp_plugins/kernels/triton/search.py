"""`nearest_code` by Triton kernels, with three kinds of screen; each gives the same, exact index."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_plugins.kernels.triton.availability import interpreted, obstacle
from vtp_plugins.kernels.triton.configuration import Screen


def run(
    screen: Screen, vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The contract of `vtp_core.ops.nearest_code`; inexact results are asked for in vain."""
    from vtp_plugins.kernels.triton.search_operator import search

    return search(vectors, codebook, metric=metric, weight=weight, screen=screen)


def _refuses(case: SearchCase) -> str | None:
    return None if case.device == "cuda" or interpreted() else "needs cuda tensors"


def _always(case: SearchCase) -> bool:
    return True


def _by_name(case: SearchCase) -> bool:
    return False


KERNEL = SearchKernel(
    name="triton", run=partial(run, "bfloat16"), refuses=_refuses, suits=_always, missing=obstacle
)
"""Screens in bfloat16, the fastest arithmetic of the three."""

TF32_KERNEL = SearchKernel(
    name="triton_tf32x3", run=partial(run, "tf32x3"), refuses=_refuses, suits=_by_name, missing=obstacle
)
"""Screens by three products of TF32 parts: for data whose codes bfloat16 can't tell apart."""

FLOAT32_KERNEL = SearchKernel(
    name="triton_float32", run=partial(run, "float32"), refuses=_refuses, suits=_by_name, missing=obstacle
)
"""Screens in float32 without tensor cores: to compare with."""
