"""What a run sees of the Triton kernels on a machine that can't run them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from vtp_core.errors import UsageError
from vtp_core.ops import (
    AttentionCase,
    AttentionChoice,
    AttentionKernel,
    SearchCase,
    SearchChoice,
    SearchKernel,
    attention_choice,
    nearest_code,
    search_choice,
    vit_attention,
)
from vtp_core.plugins import load_plugins
from vtp_plugins.kernels.cuda import attention as cuda_attention
from vtp_plugins.kernels.cuda import search as cuda_search
from vtp_plugins.kernels.triton import attention, search
from vtp_plugins.kernels.triton.configuration import nearest_architecture

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")


def test_components_are_registered() -> None:
    found = {c.name: c.load_target() for c in load_plugins().components("kernel") if "triton" in c.name}
    assert found == {
        "triton_attention": attention.KERNEL,
        "triton_search": search.KERNEL,
        "triton_search_tf32x3": search.TF32_KERNEL,
        "triton_search_float32": search.FLOAT32_KERNEL,
    }
    assert all(isinstance(kernel, AttentionKernel | SearchKernel) for kernel in found.values())


@without_gpu
def test_named_without_a_gpu_they_say_why_not() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(UsageError, match="triton needs cuda"):
        nearest_code(x, x, implementation=SearchChoice((search.KERNEL,)))
    q = torch.randn(1, 1, 4, 32)
    with pytest.raises(UsageError, match="triton needs cuda"):
        vit_attention(q, q, q, implementation=AttentionChoice((attention.KERNEL,)))
    assert search.KERNEL.missing() == "needs a CUDA GPU"


@pytest.mark.parametrize(
    ("dtype", "width", "reason"),
    [
        (torch.float64, 64, "float64"),
        (torch.float32, 24, "widths 32 to 128, not 24"),
        (torch.bfloat16, 136, "widths 32 to 128, not 136"),
        (torch.bfloat16, 32, None),
        (torch.float16, 96, None),
        (torch.float32, 128, None),
    ],
)
def test_cases_of_attention(dtype: torch.dtype, width: int, reason: str | None) -> None:
    case = AttentionCase(device="cuda", dtype=dtype, tokens=257, width=width, packed=True, lse=False)
    found = attention.KERNEL.refuses(case)
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize("packed", [False, True])
def test_auto_takes_torchs_own_where_nothing_was_measured(packed: bool) -> None:
    def here(kernel: Any) -> Any:
        return replace(kernel, missing=lambda: None, refuses=lambda case: None)

    case = AttentionCase(device="cuda", dtype=torch.bfloat16, tokens=257, width=64, packed=packed, lse=False)
    kernels = [here(attention.KERNEL), here(cuda_attention.KERNEL)]
    assert attention_choice("auto", kernels).pick(case).name == "sdpa"
    searched = SearchCase(
        device="cuda", dtype=torch.float32, rows=9, codes=9, width=8, metric="l2", exact=True
    )
    found = [search.KERNEL, search.TF32_KERNEL, search.FLOAT32_KERNEL, cuda_search.KERNEL]
    assert search_choice("auto", [here(kernel) for kernel in found]).pick(searched).name == "reference"


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [((8, 0), 80), ((8, 9), 80), ((9, 0), 90), ((10, 0), 100), ((10, 3), 100), ((12, 0), 80)],
)
def test_settings_of_an_architecture(capability: tuple[int, int], architecture: int) -> None:
    assert nearest_architecture(capability) == architecture


def test_components_import_without_triton() -> None:
    """Where there is no triton, they load and say so."""
    program = """
import sys
sys.modules["triton"] = None
from vtp_plugins.kernels.triton import attention, search
assert attention.KERNEL.missing() == search.KERNEL.missing() == "needs the package triton"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
