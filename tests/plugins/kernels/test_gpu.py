"""Machines with several GPUs, of which some are too old."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vtp_core.ops import AttentionCase, SearchCase
from vtp_plugins.kernels import gpu
from vtp_plugins.kernels.cuda import attention as cuda_attention
from vtp_plugins.kernels.cuda import search as cuda_search
from vtp_plugins.kernels.triton import attention as triton_attention
from vtp_plugins.kernels.triton import search as triton_search

OLD, NEW = (7, 5), (9, 0)
SEARCH = SearchCase(
    device="cuda", dtype=torch.float32, rows=9, codes=9, width=8, metric="l2", exact=True, index=0
)
ATTENTION = AttentionCase(
    device="cuda", dtype=torch.float32, tokens=9, width=64, packed=True, lse=False, index=0
)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old one and a new one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "CAPABILITIES", (OLD, NEW))


@pytest.mark.usefixtures("gpus")
def test_the_device_of_the_tensors_is_asked() -> None:
    kernels = (cuda_search.KERNEL, triton_search.KERNEL, triton_search.TF32_KERNEL)
    asked = [(kernel, SEARCH) for kernel in kernels]
    asked += [(kernel, ATTENTION) for kernel in (cuda_attention.KERNEL, triton_attention.KERNEL)]
    for kernel, case in asked:
        assert kernel.refuses(case) == "needs compute capability 8.0, cuda:0 has 7.5"
        assert kernel.refuses(replace(case, index=1)) is None
        assert kernel.refuses(replace(case, index=None)) is None


@pytest.mark.usefixtures("gpus")
def test_one_gpu_that_can_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.missing() is None
    monkeypatch.setattr(gpu, "CAPABILITIES", (OLD, OLD))
    assert gpu.missing() == "needs compute capability 8.0, cuda:0 has 7.5"


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.missing() == "needs a CUDA GPU"
