"""The CUDA attention forward, norm and rotation, executed on the CPU, against float64 and the reference."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.plugins.kernels.cuda.shim import Shim
from vtp_core.ops.attention_choice import Rope
from vtp_core.ops.attention_torch import NORM_EPS, rms_norm, rotate

pytestmark = pytest.mark.slow

WIDTHS = (32, 64, 96, 128)
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
DTYPES = tuple(TOLERANCE)


def qkv(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Views of one projection, as a transformer has them: (..., H, d) out of (..., 3, H, d)."""
    *outer, heads, width = shape
    q, k, v = torch.randn(*outer, 3, heads, width).to(dtype).unbind(-3)
    return q, k, v


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(B, N, H, d) in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT * scale
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1).transpose(1, 2)


def check(shim: Shim, q: Tensor, k: Tensor, v: Tensor, scale: float, seed: int = 1) -> None:
    out, lse = shim.attention(q, k, v, scale=scale, seed=seed)
    wanted, wanted_lse = reference(q, k, v, scale)
    tolerance = TOLERANCE[q.dtype]
    assert (out.double() - wanted).norm() <= tolerance * wanted.norm()
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 63, 65])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_widths_and_dtypes(shim: Shim, dtype: torch.dtype, width: int, tokens: int) -> None:
    check(shim, *qkv((1, tokens, 2, width), dtype), scale=width**-0.5, seed=tokens)


@pytest.mark.parametrize("width", [32, 64])
def test_long_sequences_take_larger_blocks(shim: Shim, width: int) -> None:
    check(shim, *qkv((1, 515, 1, width), torch.bfloat16), scale=width**-0.5)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_threads_gives_the_same_bits(shim: Shim, seed: int) -> None:
    for dtype in (torch.float32, torch.float16):
        q, k, v = qkv((2, 70, 1, 32), dtype)
        first, other = (shim.attention(q, k, v, scale=0.2, seed=one) for one in (99, seed))
        assert first[0].equal(other[0]) and first[1].equal(other[1])


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5).filter(any),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_packed_sequences_are_those_alone(
    shim: Shim, lengths: list[int], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    q, k, v = qkv((sum(lengths), 2, 32), dtype)
    ends = list(accumulate(lengths))
    out, lse = shim.attention(q, k, v, ends, scale=0.3, seed=seed)
    for length, end in zip(lengths, ends, strict=True):
        if length:
            one = [x[end - length : end].contiguous()[None] for x in (q, k, v)]
            alone, alone_lse = shim.attention(*one, scale=0.3, seed=seed + 1)
            assert out[end - length : end].equal(alone[0])
            assert lse[end - length : end].equal(alone_lse[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [40.0, -3.0])
def test_large_and_negative_scales(shim: Shim, dtype: torch.dtype, scale: float) -> None:
    q, k, v = qkv((1, 70, 1, 32), dtype)
    q = q.clone(memory_format=torch.preserve_format)
    out, lse = shim.attention(*(x.contiguous() for x in (q, k, v)), scale=scale)
    wanted, wanted_lse = reference(q, k, v, scale)
    assert out.isfinite().all()
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-3)
    if dtype == torch.float32:  # elsewhere the largest weights are rounded too much to compare
        assert (out.double() - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_reaches_the_rows_that_see_it(shim: Shim, dtype: torch.dtype) -> None:
    q, k, v = (x.contiguous() for x in qkv((2, 70, 1, 32), dtype))
    q[0, 3] = torch.nan
    k[1, 66] = torch.nan
    out, _ = shim.attention(q, k, v, scale=0.2)
    assert out[0, 3].isnan().all() and out[1].isnan().all()
    assert out[0].isnan().any(-1).sum() == 1


def test_scores_of_minus_infinity_have_no_weight(shim: Shim) -> None:
    q, k, v = (x.contiguous() for x in qkv((1, 130, 1, 32), torch.bfloat16))
    q[..., 0] = 1
    k[0, :100, :, 0] = -torch.inf  # the whole first block of keys among them
    out, lse = shim.attention(q, k, v, scale=0.2)
    wanted, wanted_lse = reference(q, k, v, 0.2)
    assert (out.double() - wanted).norm() <= 4e-3 * wanted.norm()
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", DTYPES)
@pytest.mark.parametrize("width", [32, 96, 128])
def test_norm_and_rotation_round_as_the_reference(
    shim: Shim, dtype: torch.dtype, table: torch.dtype, width: int
) -> None:
    x = torch.randn(2, 7, 3, width).to(dtype)
    weights = [torch.rand(width).to(dtype) for _ in range(2)]
    angles = torch.randn(5, width // 2).repeat(1, 2)
    rope = Rope(angles.cos().to(table), angles.sin().to(table))
    norms = tuple(weight.float() for weight in weights)
    found = shim.rows(x, (norms[0], norms[1]), (rope.cos, rope.sin), eps=NORM_EPS)
    for one, weight in zip(found, weights, strict=True):
        wanted = rotate(rms_norm(x, weight).transpose(1, 2), rope).transpose(1, 2)
        if torch.float32 in (dtype, table) and dtype == torch.float32 and table == torch.float32:
            torch.testing.assert_close(one, wanted, rtol=2e-6, atol=2e-6)
            continue
        # The mean square's own rounding may move a value to its neighbour.
        step = 2.0**-7 if torch.bfloat16 in (dtype, table) else 2.0**-10
        torch.testing.assert_close(one.float(), wanted.float(), rtol=step, atol=step)
        assert (one == wanted).float().mean() > 0.97


def test_norm_or_rotation_alone(shim: Shim) -> None:
    x, weight = torch.randn(1, 6, 2, 64), torch.rand(64)
    q, k = shim.rows(x, (weight, None), None, eps=NORM_EPS)
    torch.testing.assert_close(q, rms_norm(x, weight))
    assert k.equal(x)
    angles = torch.randn(6, 32).repeat(1, 2)
    rope = Rope(angles.cos(), angles.sin())
    q, k = shim.rows(x, (None, None), (rope.cos, rope.sin), eps=NORM_EPS)
    assert q.equal(k)
    torch.testing.assert_close(q, rotate(x.transpose(1, 2), rope).transpose(1, 2))
