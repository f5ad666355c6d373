"""`nearest_code` in CUDA C++: a screen in bfloat16 on tensor cores, and the definition on what it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_plugins.kernels.cuda.availability import obstacle
from vtp_plugins.kernels.gpu import outdated


def run(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The contract of `vtp_core.ops.nearest_code`; inexact results are asked for in vain."""
    index, distance = torch.ops.vtp_cuda.nearest_code(vectors, codebook, metric, weight, exact)
    return index, distance


def _refuses(case: SearchCase) -> str | None:
    return outdated(case.index)


def _suits(case: SearchCase) -> bool:
    return True


KERNEL = SearchKernel(name="cuda", run=run, refuses=_refuses, suits=_suits, device="cuda", missing=obstacle)
