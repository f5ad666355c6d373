"""`nearest_code` by Triton kernels, with three kinds of screen; each gives the same, exact index."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_plugins.kernels.gpu import outdated, unless_measured
from vtp_plugins.kernels.triton.availability import obstacle
from vtp_plugins.kernels.triton.configuration import Screen

_MISSING = obstacle()


def run(
    screen: Screen, vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The contract of `vtp_core.ops.nearest_code`; ``exact=False`` has no effect."""
    from vtp_plugins.kernels.triton.search_operator import search

    return search(vectors, codebook, metric=metric, weight=weight, screen=screen)


def _missing() -> str | None:
    return _MISSING


def _can(case: SearchCase) -> str | None:
    return outdated(case.index)


def _kernel(name: str, screen: Screen) -> SearchKernel:
    return SearchKernel(
        name=name,
        run=partial(run, screen),
        refuses=_can,
        suits=unless_measured,
        device="cuda",
        missing=_missing,
    )


KERNEL = _kernel("triton", "bfloat16")
"""Screens in bfloat16, the fastest arithmetic of the three."""

TF32_KERNEL = _kernel("triton_tf32x3", "tf32x3")
"""Screens by three products of TF32 parts: for data whose codes bfloat16 can't tell apart."""

FLOAT32_KERNEL = _kernel("triton_float32", "float32")
"""Screens in float32 without tensor cores, for comparison."""
