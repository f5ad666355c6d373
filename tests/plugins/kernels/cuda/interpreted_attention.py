"""The operator with the shim's forward and Triton's interpreted backward; `test_kernels` runs this file."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
import triton
from torch import Tensor

from tests.plugins.kernels.cuda.shim import Shim
from vtp_core.ops import AttentionChoice, Rope, attention_choice, vit_attention
from vtp_plugins.kernels.cuda.attention import KERNEL
from vtp_plugins.kernels.native import loading
from vtp_plugins.kernels.triton import query_key

assert triton.knobs.runtime.interpret, "needs TRITON_INTERPRET=1 in the environment"

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which interprets

SCHEMA = (
    "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? q_norm, Tensor? k_norm, Tensor? cos, "
    "Tensor? sin, Tensor? cu_seqlens, int longest, float scale, float eps) -> (Tensor, Tensor)"
)
CUDA = AttentionChoice((replace(KERNEL, device=None, missing=lambda: None),))
REFERENCE = attention_choice("reference")

library = torch.library.Library("vtp_cuda", "FRAGMENT")
if loading.why_missing("_C_cuda") is not None:  # not built here: the operator is as it would be
    library.define(SCHEMA)
    loading.why_missing = lambda module: None

import vtp_plugins.kernels.cuda.attention_operator  # noqa: E402, F401

shim = Shim(Path(os.environ["VTP_TEST_SHIM"]))


def forward(
    q: Tensor, k: Tensor, v: Tensor,
    q_norm: Tensor | None, k_norm: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    cu_seqlens: Tensor | None, longest: int, scale: float, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What attention.cu does, on the CPU."""
    q, k, v = (
        x.contiguous() if cu_seqlens is not None else x.transpose(1, 2).contiguous() for x in (q, k, v)
    )
    norms = [None if x is None else x.float().contiguous() for x in (q_norm, k_norm)]
    tables = None if cos is None or sin is None else (cos, sin)
    if tables or q_norm is not None or k_norm is not None:
        lead = (lambda x: x[None]) if cu_seqlens is not None else (lambda x: x)
        q = shim.rows(lead(q), (norms[0], norms[1]), tables, eps=eps)[0].view(q.shape)
        k = shim.rows(lead(k), (norms[0], norms[1]), tables, eps=eps)[1].view(k.shape)
    ends = None if cu_seqlens is None else cu_seqlens[1:].tolist()
    out, lse = shim.attention(q, k, v, ends, scale=scale)
    return (out, lse) if ends else (out.transpose(1, 2), lse.transpose(1, 2).contiguous())


library.impl("attention_forward", forward, "CPU")


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes with the number of programs."""
    monkeypatch.setattr(query_key, "POSITION_TOKENS", 128)


@pytest.mark.parametrize("lengths", [None, [5, 0, 31, 1]])
@pytest.mark.parametrize("dressed", [False, True])
def test_forward_and_backward_fit_together(lengths: list[int] | None, dressed: bool) -> None:
    """Gradients of output and log-sum-exp are those of the reference, in float64."""
    shape = (sum(lengths), 2, 32) if lengths else (2, 2, 37, 32)
    inputs = [torch.randn(shape) for _ in range(3)]
    table = torch.randn(37 if lengths else 33, 16).repeat(1, 2)
    if dressed:
        inputs += [torch.rand(32) + 0.5, torch.rand(32) + 0.5]
    starts = torch.tensor([0, *accumulate(lengths)]) if lengths else None
    dout, dlse = torch.randn(shape), torch.randn(shape[:-1])
    results = []
    for choice, dtype in ((CUDA, torch.float32), (REFERENCE, torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        q_norm, k_norm = leaves[3:] or (None, None)
        rope = Rope(table.cos().to(dtype), table.sin().to(dtype)) if dressed else None
        out, lse = vit_attention(
            *leaves[:3], q_norm=q_norm, k_norm=k_norm, rope=rope, cu_seqlens=starts, return_lse=True,
            implementation=choice,
        )  # fmt: skip
        found = torch.autograd.grad((out, lse), leaves, (dout.to(out.dtype), dlse.to(lse.dtype)))
        results.append((out, lse, *found))
    for mine, right in zip(*results, strict=True):
        assert mine.shape == right.shape
        assert (mine.double() - right.double()).norm() <= 5e-6 * right.double().norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_operator_is_sound_for_tracing() -> None:
    q, k, v = (torch.randn(1, 9, 1, 32).transpose(1, 2).requires_grad_() for _ in range(3))
    weight, table = torch.rand(32, requires_grad=True), torch.randn(8, 16).repeat(1, 2)
    operator = torch.ops.vtp_cuda.attention_forward.default
    arguments = (q, k, v, weight, None, table.cos(), table.sin(), None, 9, 0.2, 1e-5)
    torch.library.opcheck(operator, arguments)
    packed = [x[0].transpose(0, 1).detach() for x in (q, k, v)]
    starts = torch.tensor([0, 3, 9], dtype=torch.int32)
    torch.library.opcheck(operator, (*packed, None, None, None, None, starts, 6, 0.2, 1e-5))


def test_lengths_are_read_once_and_sequences_stay_apart() -> None:
    q, k, v = torch.randn(3, 12, 1, 32).unbind()
    starts = torch.tensor([0, 7, 7, 12])
    out, lse = vit_attention(q, k, v, cu_seqlens=starts, return_lse=True, implementation=CUDA)
    for a, b in pairwise(starts.tolist()):
        if a < b:
            alone = vit_attention(
                *(x[a:b].transpose(0, 1)[None] for x in (q, k, v)), implementation=REFERENCE
            )
            torch.testing.assert_close(out[a:b], alone[0].transpose(0, 1), rtol=1e-5, atol=1e-5)
    assert lse.shape == (12, 1)


def test_packed_sequences_are_one_graph() -> None:
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 12, 1, 32).unbind())
    starts = torch.tensor([0, 7, 7, 12])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return vit_attention(q, k, v, cu_seqlens=starts, implementation=CUDA)

    found = torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v)
    right = attend(q, k, v)
    assert found.equal(right)
    for mine, wanted in zip(
        torch.autograd.grad(found.sum(), (q, k, v)), torch.autograd.grad(right.sum(), (q, k, v)), strict=True
    ):
        torch.testing.assert_close(mine, wanted)
