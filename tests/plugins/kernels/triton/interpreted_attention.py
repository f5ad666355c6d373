"""The attention kernels in the interpreter; `test_interpreted` runs this file in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.ops import AttentionChoice, Rope, vit_attention
from vtp_core.ops.attention_torch import NORM_EPS, rms_norm, rotate
from vtp_plugins.kernels.triton import attention_operator, query_key
from vtp_plugins.kernels.triton.attention import KERNEL

assert triton.knobs.runtime.interpret, "needs TRITON_INTERPRET=1 in the environment"

TRITON = AttentionChoice((replace(KERNEL, device=None),))
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""Largest error over the norm of what is right, by dtype: sums of 100 terms rounded to it twice."""

# The interpreter computes in numpy, which warns where IEEE arithmetic gives NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def angles(tokens: int, width: int) -> Tensor:
    return torch.randn(tokens, width // 2).repeat(1, 2)


def formula(q: Tensor, k: Tensor, v: Tensor, weights: Any, table: Tensor | None) -> tuple[Tensor, Tensor]:
    """Float64, one sequence (..., N, d); the rotation as a product of complex numbers."""

    def ready(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            x = x * (x.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt() * weight
        if table is None or not len(table):
            return x
        half = x.shape[-1] // 2
        turn = torch.polar(torch.ones_like(table[:, :half]), table[:, :half])
        moved = torch.complex(x[..., -len(table) :, :half], x[..., -len(table) :, half:]) * turn
        return torch.cat((x[..., : -len(table), :], torch.cat((moved.real, moved.imag), -1)), -2)

    q_norm, k_norm = weights
    scores = ready(q, q_norm) @ ready(k, k_norm).transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


CASES = [
    (torch.float32, 32, None),
    (torch.float32, 128, [3, 0, 1, 40]),
    (torch.float32, 96, None),
    (torch.float16, 64, None),
    (torch.float16, 32, [5, 70]),
    (torch.bfloat16, 64, None),
    (torch.bfloat16, 96, [0, 33, 1, 66]),
    (torch.bfloat16, 40, None),
    (torch.bfloat16, 72, [9, 34]),
    (torch.float32, 40, [33, 2]),
    (torch.float32, 48, None),
    (torch.float32, 72, [5, 20]),
]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes with the number of programs."""
    monkeypatch.setattr(query_key, "POSITION_TOKENS", 128)


@pytest.mark.parametrize(("dtype", "width", "lengths"), CASES)
@pytest.mark.parametrize("dressed", [False, True], ids=["plain", "norm+rope"])
def test_forward_and_backward(
    dtype: torch.dtype, width: int, lengths: list[int] | None, dressed: bool
) -> None:
    """Output, log-sum-exp and the gradients of both by everything that has one."""
    heads, still = 2, 0 if lengths else 5
    shape = (sum(lengths), heads, width) if lengths else (1, heads, 70, width)
    tokens = shape[0] if lengths else shape[2]
    inputs = [x.to(dtype) for x in torch.randn(3, *shape)]
    if dressed:
        inputs += [(torch.rand(width) + 0.5).to(dtype) for _ in range(2)]
    table = angles(tokens - still, width).double() if dressed else None
    rope = None if table is None else Rope(table.cos().to(dtype), table.sin().to(dtype))
    if table is not None and rope is not None:
        table = torch.atan2(rope.sin.double(), rope.cos.double())
    starts = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    dout, dlse = torch.randn(shape).to(dtype), torch.randn(shape[:-1])

    mine = [x.clone().requires_grad_() for x in inputs]
    norms = mine[3:] or [None, None]
    out, lse = vit_attention(
        *mine[:3],
        q_norm=norms[0],
        k_norm=norms[1],
        rope=rope,
        cu_seqlens=starts,
        return_lse=True,
        implementation=TRITON,
    )
    found = torch.autograd.grad((out, lse), mine, (dout, dlse))

    exact = [x.double().requires_grad_() for x in inputs]
    weights = exact[3:] or [None, None]
    if starts is None:
        expected, expected_lse = formula(*exact[:3], weights, table)
    else:
        parts = [
            formula(
                *(x[a:b].transpose(0, 1) for x in exact[:3]), weights, None if table is None else table[a:b]
            )
            for a, b in pairwise(starts.tolist())
        ]
        expected = torch.cat([part[0].transpose(0, 1) for part in parts])
        expected_lse = torch.cat([part[1].T for part in parts])
    right = torch.autograd.grad((expected, expected_lse), exact, (dout.double(), dlse.double()))

    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    for got, want in zip((out, lse, *found), (expected, expected_lse, *right), strict=True):
        assert got.shape == want.shape
        assert (got.double() - want).norm() <= TOLERANCE[dtype] * want.norm()


def test_views_of_a_projection() -> None:
    """Token-major views, as the layer of a transformer makes them, and a last axis that isn't contiguous."""
    qkv = torch.randn(2, 20, 3, 2, 32, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    out = vit_attention(q, k, v, implementation=TRITON)
    torch.testing.assert_close(out, formula(q, k, v, (None, None), None)[0], atol=1e-5, rtol=1e-5)
    dout = torch.randn(2, 2, 32, 20).transpose(-1, -2)
    [found] = torch.autograd.grad(out, qkv, dout)
    [right] = torch.autograd.grad(formula(q, k, v, (None, None), None)[0], qkv, dout)
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tables", [torch.float32, torch.bfloat16])
def test_norm_and_rotation_round_like_torch(dtype: torch.dtype, tables: torch.dtype) -> None:
    """Equal bits but for sums in another order, which move a rounding now and then."""
    x, weight = torch.randn(2, 3, 40, 64).to(dtype), torch.rand(64).add(0.5).to(dtype)
    table = angles(37, 64)
    cos, sin = table.cos().to(tables), table.sin().to(tables)
    found = query_key.prepared(x, weight, cos, sin, packed=False)
    expected = rotate(rms_norm(x, weight), Rope(cos, sin))
    least = torch.bfloat16 in (dtype, tables)
    assert (found == expected).double().mean() > (0.97 if least else 0.3)
    torch.testing.assert_close(found, expected, rtol=2e-2 if least else 1e-6, atol=2e-2 if least else 1e-6)


def test_scores_of_any_size() -> None:
    q, k, v = torch.randn(3, 1, 1, 40, 32).unbind()
    out, lse = vit_attention(1e3 * q, 1e3 * k, v, return_lse=True, implementation=TRITON)
    scores = 1e6 * (q.double() @ k.double().transpose(-1, -2)) * 32**-0.5
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ v.double(), atol=1e-3, rtol=1e-3)


def test_nan_stays_in_its_sequence() -> None:
    q, k, v = torch.randn(3, 30, 1, 32).unbind()
    q[2], k[20] = torch.nan, torch.nan
    out = vit_attention(q, k, v, cu_seqlens=torch.tensor([0, 12, 30]), implementation=TRITON)
    bad = out.isnan().any(-1).flatten()
    assert bad.nonzero().flatten().tolist() == [2, *range(12, 30)]


@pytest.mark.parametrize("shape", [(0, 2, 32), (0, 2, 5, 32), (2, 2, 0, 32)])
def test_nothing_to_attend_to(shape: tuple[int, ...]) -> None:
    q = torch.randn(shape, requires_grad=True)
    weight = torch.ones(32, requires_grad=True)
    starts = torch.tensor([0, 0, 0]) if len(shape) == 3 else None
    out = vit_attention(q, q, q, q_norm=weight, cu_seqlens=starts, implementation=TRITON)
    assert out.shape == shape
    gradients = torch.autograd.grad(out.sum(), (q, weight))
    assert gradients[1].tolist() == [0.0] * 32


def test_offsets_that_are_a_view_are_read_one_after_the_other() -> None:
    x = torch.randn(20, 1, 32, requires_grad=True)
    every_second = torch.tensor([0, 99, 8, 99, 20])[::2]
    for offsets in (every_second, every_second.clone()):
        out = vit_attention(x, x, x, cu_seqlens=offsets, implementation=TRITON)
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        if offsets is every_second:
            first = out, gradient
    torch.testing.assert_close((out, gradient), first, rtol=0, atol=0)


def test_gradients_keep_their_dtype_and_repeat() -> None:
    q, k, v = (x.bfloat16().requires_grad_() for x in torch.randn(3, 1, 2, 40, 32).unbind())
    weight = torch.rand(32).add(0.5).requires_grad_()
    runs = []
    for _ in range(2):
        out = vit_attention(q, k, v, q_norm=weight, k_norm=weight, implementation=TRITON)
        runs.append(torch.autograd.grad(out.float().sum(), (q, weight)))
    assert [x.dtype for x in runs[0]] == [torch.bfloat16, torch.float32]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_operator_is_sound_for_tracing() -> None:
    q, k, v = (torch.randn(1, 1, 8, 32, requires_grad=True) for _ in range(3))
    weight = torch.rand(32, requires_grad=True)
    table = angles(7, 32)
    arguments = (q, k, v, weight, None, table.cos(), table.sin(), None, 0.2)
    torch.library.opcheck(attention_operator.attention_forward, arguments)
    packed = [x[0].transpose(0, 1).detach() for x in (q, k, v)]
    starts = torch.tensor([0, 3, 8])
    arguments = (*packed, None, None, None, None, starts, 0.2)
    torch.library.opcheck(attention_operator.attention_forward, arguments)


def test_packed_call_compiles_as_one_graph() -> None:
    q = torch.randn(20, 1, 32, requires_grad=True)
    starts = torch.tensor([0, 7, 20])

    def attend(x: Tensor) -> Tensor:
        return vit_attention(x, x, x, cu_seqlens=starts, implementation=TRITON)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q), attend(q))
    [found] = torch.autograd.grad(compiled(q).sum(), q)
    [expected] = torch.autograd.grad(attend(q).sum(), q)
    assert torch.equal(found, expected)


def test_what_has_no_gradient_says_so() -> None:
    q = torch.randn(1, 1, 4, 32, requires_grad=True)
    table = angles(4, 32).requires_grad_()
    with pytest.raises(UsageError, match="rotary tables"):
        vit_attention(q, q, q, rope=Rope(table.cos(), table.sin()), implementation=TRITON)
    [first] = torch.autograd.grad(
        vit_attention(q, q, q, implementation=TRITON).square().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match="attention_backward"):
        first.sum().backward()
