"""Where the tests of this folder run, and with which implementations.

``VTP_TEST_DEVICE=cpu`` runs them with the kernels for CPUs: that tests the tests where there is no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch

from vtp_core.ops import AttentionChoice, AttentionKernel, SearchChoice, SearchKernel
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_core.ops.nearest_code_torch import REFERENCE
from vtp_plugins.kernels.cpu.attention import KERNEL as CPU_ATTENTION
from vtp_plugins.kernels.cuda import attention as cuda_attention
from vtp_plugins.kernels.cuda import search as cuda_search
from vtp_plugins.kernels.triton import attention as triton_attention
from vtp_plugins.kernels.triton import search as triton_search

DEVICE = os.environ.get("VTP_TEST_DEVICE", "cuda")

MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else []
"""Of every test that needs the device."""

ATTENTION: Mapping[str, AttentionKernel] = {
    kernel.name: kernel for kernel in (cuda_attention.KERNEL, triton_attention.KERNEL)
}
SEARCH: Mapping[str, SearchKernel] = {
    kernel.name: kernel
    for kernel in (
        cuda_search.KERNEL,
        triton_search.KERNEL,
        triton_search.TF32_KERNEL,
        triton_search.FLOAT32_KERNEL,
    )
}


def attention(name: str) -> AttentionChoice:
    """That implementation alone; fails where it can't run."""
    if DEVICE == "cpu":
        return AttentionChoice((CPU_ATTENTION, *TORCH_KERNELS))
    if reason := ATTENTION[name].missing():
        pytest.fail(f"{name} {reason}")
    return AttentionChoice((ATTENTION[name],))


def search(name: str) -> SearchChoice:
    """That implementation alone; fails where it can't run."""
    if DEVICE == "cpu":
        return SearchChoice((REFERENCE,))
    if reason := SEARCH[name].missing():
        pytest.fail(f"{name} {reason}")
    return SearchChoice((SEARCH[name],))


@contextmanager
def other_stream() -> Iterator[None]:
    """Another stream of the device than the present one, which waits for what the block launched."""
    if DEVICE == "cpu":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
