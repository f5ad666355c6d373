"""What a run sees of the CUDA C++ kernels, and how forward and backward fit together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.plugins.kernels.cuda.shim import FLAGS, build
from vtp_core.errors import UsageError
from vtp_core.ops import AttentionCase, AttentionChoice, SearchChoice, nearest_code, vit_attention
from vtp_core.plugins import load_plugins
from vtp_plugins.kernels.cuda import attention, search
from vtp_plugins.kernels.native.compiler import cxx
from vtp_plugins.kernels.native.loading import why_missing

ROOT = Path(__file__).parents[4]

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")


def test_components_are_registered() -> None:
    found = {c.name: c.load_target() for c in load_plugins().components("kernel") if "cuda" in c.name}
    assert found == {"cuda_attention": attention.KERNEL, "cuda_search": search.KERNEL}


@without_gpu
def test_named_without_a_gpu_they_say_why_not() -> None:
    assert search.KERNEL.missing() == attention.KERNEL.missing() == "needs a CUDA GPU"
    x = torch.randn(2, 4)
    with pytest.raises(UsageError, match="cuda needs cuda tensors"):
        nearest_code(x, x, implementation=SearchChoice((search.KERNEL,)))
    q = torch.randn(1, 1, 4, 32)
    with pytest.raises(UsageError, match="cuda needs cuda tensors"):
        vit_attention(q, q, q, implementation=AttentionChoice((attention.KERNEL,)))


@pytest.mark.parametrize(
    ("dtype", "width", "reason"),
    [
        (torch.float64, 64, "has no float64"),
        (torch.float32, 48, "has head widths 32, 64, 96, 128, not 48"),
        (torch.bfloat16, 32, None),
        (torch.float16, 96, None),
        (torch.float32, 128, None),
    ],
)
def test_cases_of_attention(dtype: torch.dtype, width: int, reason: str | None) -> None:
    case = AttentionCase(device="cuda", dtype=dtype, tokens=257, width=width, packed=True, lse=False)
    assert attention.KERNEL.refuses(case) == reason
    assert attention.KERNEL.refuses(replace(case, rope=torch.float64)) is not None


def test_the_module_loads_without_a_gpu_and_has_the_operators() -> None:
    if reason := why_missing("_C_cuda"):
        pytest.skip(f"_C_cuda {reason}")
    search_schema = str(torch.ops.vtp_cuda.nearest_code.default._schema)
    assert search_schema == (
        "vtp_cuda::nearest_code(Tensor vectors, Tensor codebook, str metric, Tensor? weight, bool exact) "
        "-> (Tensor, Tensor)"
    )
    x = torch.randn(2, 4)
    with pytest.raises(NotImplementedError, match="vtp_cuda::nearest_code"):
        torch.ops.vtp_cuda.nearest_code(x, x, "l2", None, True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_forward_and_the_backward_of_triton(shim_library: Path) -> None:
    file = Path(__file__).with_name("interpreted_attention.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": "", "VTP_TEST_SHIM": str(shim_library)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]


SANITIZED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.core.ops.nearest_code_oracle import DATA, drawn
from tests.plugins.kernels.cuda.shim import METRICS, Shim

shim = Shim(Path(sys.argv[1]))
torch.manual_seed(0)
for number, kind in enumerate(DATA):
    weight = torch.rand(20).double()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        metric = METRICS[number % 3]
        x, c = drawn(kind, 40, 130, 20, dtype)
        shim.search(x, c, metric, weight if metric == "weighted" else None, seed=number)
shim.search(torch.randn(20, 100), torch.randn(300, 100))
shim.search(torch.randn(300, 8), torch.randn(300, 8), chunk=256, processors=8)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for width in (32, 64, 96, 128):
        q, k, v = torch.randn(70, 3, 2, width).to(dtype).unbind(1)
        shim.attention(q, k, v, [5, 5, 70], scale=0.2)
    x, table = torch.randn(2, 5, 2, 96).to(dtype), torch.rand(4, 96).to(dtype)
    shim.rows(x, (torch.rand(96), None), (table, table), eps=1e-5)
print("clean")
"""


@pytest.mark.skipif(cxx() is None, reason="no C++ compiler on PATH")
@pytest.mark.slow
def test_nothing_of_undefined_behaviour(tmp_path: Path) -> None:
    flags = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-g1")
    assert not set(flags) & set(FLAGS)
    library = build(tmp_path, *flags)
    run = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == "clean\n", run.stderr[-3000:]
