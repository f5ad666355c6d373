"""`nearest_code` in CUDA C++: a screen in bfloat16 on tensor cores, and the definition on what it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_plugins.kernels.cuda.availability import obstacle
from vtp_plugins.kernels.gpu import outdated, unless_measured


def run(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The contract of `vtp_core.ops.nearest_code`; ``exact=False`` has no effect."""
    index, distance = torch.ops.vtp_cuda.nearest_code(vectors, codebook, metric, weight, exact)
    return index, distance


def _refuses(case: SearchCase) -> str | None:
    return outdated(case.index)


KERNEL = SearchKernel(
    name="cuda", run=run, refuses=_refuses, suits=unless_measured, device="cuda", missing=obstacle
)
