"""`vit_attention` in C++ against float64: gradients, lengths, widths, strides, every instruction set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.plugins.kernels.cpu.attention_oracle import Inputs, attention64, drawn, error, log_error
from vtp_core.ops import AttentionChoice, Rope, attention_choice, vit_attention
from vtp_plugins.kernels.cpu.attention import KERNEL

ISAS = ("portable", "avx2", "avx512", "avx512bf16")
CHOICE = AttentionChoice((KERNEL,))
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}

pytestmark = pytest.mark.skipif(KERNEL.missing() is not None, reason=f"cpu attention {KERNEL.missing()}")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor has."""
    monkeypatch.delenv("VTP_CPU_ISA", raising=False)
    best: str = torch.ops.vtp_cpu.isa()
    if ISAS.index(request.param) > ISAS.index(best):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("VTP_CPU_ISA", request.param)
    return request.param


def attend(inputs: Inputs, **changes: Any) -> tuple[Tensor, Tensor]:
    arguments: dict[str, Any] = {
        "q_norm": inputs.q_norm,
        "k_norm": inputs.k_norm,
        "rope": inputs.rope,
        "scale": inputs.scale,
        "cu_seqlens": inputs.starts,
        "return_lse": True,
        "implementation": CHOICE,
    }
    return vit_attention(inputs.q, inputs.k, inputs.v, **{**arguments, **changes})


def assert_as_float64(inputs: Inputs) -> None:
    """Output, log-sum-exp and all gradients, the log-sum-exp's own included."""
    tolerance = TOLERANCE[inputs.q.dtype]
    own, wide = inputs.copy(), inputs.copy(torch.float64)
    out, lse = attend(own)
    expected_out, expected_lse = attention64(wide)
    assert out.dtype == inputs.q.dtype and lse.dtype == torch.float32
    assert error(out, expected_out) < tolerance
    assert log_error(lse, expected_lse) < tolerance
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    found = torch.autograd.grad((out, lse), own.leaves(), (grad_out, grad_lse))
    wide_gradients = (grad_out.double(), grad_lse.double())
    expected = torch.autograd.grad(
        (expected_out, expected_lse), wide.leaves(), wide_gradients, materialize_grads=True
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        # With few keys a gradient can be all cancellation; what cancels has the size of a mean over keys.
        size = theirs.norm() + (theirs.numel() / max([*inputs.lengths, 1])) ** 0.5
        assert float((mine.double() - theirs).norm() / size.clamp(min=1e-30)) < 2 * tolerance


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 8, 32, 40, 64, 96, 128, 256])
def test_widths(isa: str, dtype: torch.dtype, width: int) -> None:
    even = width % 2 == 0
    tables = torch.float32 if even else None
    # The norm of one value is its sign: its gradient is nothing but cancellation.
    assert_as_float64(drawn([83, 21], 2, width, dtype, norm=width > 1, tables=tables))
    assert_as_float64(drawn([17], 1, width, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_length(isa: str, dtype: torch.dtype) -> None:
    """All ends of blocks and tiles, with empty sequences and single tokens between."""
    assert_as_float64(drawn([0, *range(1, 100, 7), 0, 1, 1, 64, 65, 81, 145], 1, 32, dtype, norm=True))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    heads=st.integers(1, 3),
    width=st.sampled_from([2, 16, 24, 64]),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    norm=st.booleans(),
    rotate=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_lengths(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, norm: bool, rotate: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    tables = torch.float32 if rotate else None
    assert_as_float64(drawn(lengths, heads, width, dtype, norm=norm, tables=tables))


def dense(inputs: Inputs) -> tuple[Tensor, ...]:
    """The same as (B, H, N, d)."""
    return tuple(
        x.unflatten(0, (len(inputs.lengths), -1)).transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v)
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dense_equals_packed_to_the_bit(isa: str, dtype: torch.dtype) -> None:
    inputs = drawn([70, 70], 3, 64, dtype, norm=True, tables=torch.float32)
    assert inputs.rope is not None
    # The dense layout has one table for all sequences, and tokens before its positions that stay.
    still = Rope(torch.ones(2, 64), torch.zeros(2, 64))
    rope = Rope(*(table[2:70] for table in inputs.rope))
    inputs.rope = Rope(*(torch.cat((a, b)).repeat(2, 1) for a, b in zip(still, rope, strict=True)))
    packed, packed_lse = attend(inputs)
    inputs.q, inputs.k, inputs.v = dense(inputs)
    out, lse = attend(inputs, cu_seqlens=None, rope=rope)
    assert torch.equal(out.transpose(1, 2).flatten(0, 1), packed)
    assert torch.equal(lse.transpose(1, 2).flatten(0, 1), packed_lse)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_strides_do_not_matter(isa: str, dtype: torch.dtype) -> None:
    """Views of one projection, another order in memory, rows that aren't contiguous, broadcasts."""
    q, k, v = torch.randn(3, 2, 3, 37, 64).to(dtype).unbind()

    def results(*tensors: Tensor) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        out = vit_attention(*leaves, implementation=CHOICE)
        return [out, *torch.autograd.grad(out, leaves, gradient)]

    gradient = torch.randn_like(q)
    expected = results(q, k, v)
    projection = torch.stack((q, k, v)).permute(1, 3, 0, 2, 4).contiguous().permute(2, 0, 3, 1, 4)
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)]
    swapped = [x.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3) for x in (q, k, v)]
    for tensors in (projection.unbind(), turned, swapped):
        for found, given_ in zip(results(*tensors), expected, strict=True):
            assert torch.equal(found, given_)
    gradient = gradient[:1, :1, :1, :1].expand_as(q)
    spread = results(q, k, v)
    gradient = gradient.contiguous()
    assert all(map(torch.equal, spread, results(q, k, v)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tables_in_bfloat16_round_as_torch_rounds(isa: str, dtype: torch.dtype) -> None:
    """The published models rotate in bfloat16; where a sum decides the rounding, one may be a unit off."""
    q, k, v = torch.randn(3, 2, 2, 40, 64).to(dtype).unbind()
    angles = torch.randn(39, 64)
    rope = Rope(angles.cos().bfloat16(), angles.sin().bfloat16())
    reference = attention_choice("reference")
    expected = vit_attention(q, k, v, rope=rope, implementation=reference)
    rounding = {torch.float32: 2e-6, torch.bfloat16: 4e-3}[dtype]
    found = vit_attention(q, k, v, rope=rope, implementation=CHOICE)
    assert error(found, expected) < rounding
    exact = vit_attention(q, k, v, rope=Rope(angles.cos(), angles.sin()), implementation=reference)
    if dtype == torch.float32:
        assert error(found, exact) > 10 * rounding  # the tables' rounding is there to be seen


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norm_weights_in_bfloat16(dtype: torch.dtype) -> None:
    inputs = drawn([33], 2, 64, dtype, norm=True)
    assert inputs.q_norm is not None and inputs.k_norm is not None
    inputs.q_norm, inputs.k_norm = inputs.q_norm.bfloat16(), inputs.k_norm.bfloat16()
    own, wide = inputs.copy(), inputs.copy(torch.float64)
    out, _ = attend(own)
    expected, _ = attention64(wide)
    assert error(out, expected) < TOLERANCE[dtype]
    out.sum().backward()
    assert own.q_norm is not None and own.q_norm.grad is not None
    assert own.q_norm.grad.dtype == torch.bfloat16


def test_one_norm_alone_and_rotation_alone() -> None:
    both = drawn([30], 2, 32, torch.float32, norm=True)
    for name in ("q_norm", "k_norm"):
        alone = drawn([30], 2, 32, torch.float32)
        setattr(alone, name, getattr(both, name))
        assert_as_float64(alone)
    assert_as_float64(drawn([30], 2, 32, torch.float32, tables=torch.float32))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [0.0, -0.2, -1.0])
def test_scales_that_turn_the_order_of_the_scores(isa: str, dtype: torch.dtype, scale: float) -> None:
    inputs = drawn([75], 2, 32, dtype, tables=dtype)
    inputs.scale = scale
    assert_as_float64(inputs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [200.0, -200.0])
def test_large_scores_do_not_overflow(isa: str, dtype: torch.dtype, scale: float) -> None:
    inputs = drawn([75], 2, 32, dtype)
    inputs.scale = scale  # scores of thousands: one key takes all
    out, lse = attend(inputs)
    expected, expected_lse = attention64(inputs)
    assert bool(out.isfinite().all()) and bool(lse.isfinite().all())
    assert error(lse, expected_lse) < 1e-5
    assert error(out, expected) < {torch.float32: 1e-3, torch.bfloat16: 1e-2}[dtype]
    inputs.q = inputs.q * -0.0  # all scores equal: the mean of the values
    out, lse = attend(inputs)
    assert error(out, inputs.v.double().mean(0).expand_as(out)) < TOLERANCE[dtype]
    assert error(lse, torch.full_like(lse, 75).log()) < 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_what_depends_on_them_and_nothing_else(
    isa: str, dtype: torch.dtype, value: float
) -> None:
    q, k, v = torch.randn(3, 1, 2, 90, 32).to(dtype).unbind()
    clean = vit_attention(q, k, v, implementation=CHOICE)
    spoiled = q.clone()
    spoiled[0, 1, 40, 3] = value
    out, lse = vit_attention(spoiled, k, v, return_lse=True, implementation=CHOICE)
    assert bool(out[0, 1, 40].isnan().all()) and bool(lse[0, 1, 40].isnan())
    rest = torch.ones(90, dtype=torch.bool)
    rest[40] = False
    assert torch.equal(out[0, 1, rest], clean[0, 1, rest]) and torch.equal(out[0, 0], clean[0, 0])
    spoiled = k.clone()
    spoiled[0, 1, 40, 3] = float("nan")
    out, lse = vit_attention(q, spoiled, v, return_lse=True, implementation=CHOICE)
    assert bool(out[0, 1].isnan().all()) and bool(lse[0, 1].isnan().all())
    assert torch.equal(out[0, 0], clean[0, 0])
    spoiled = v.clone()
    spoiled[0, 1, 40, 3] = float("nan")
    out = vit_attention(q, k, spoiled, implementation=CHOICE)
    assert bool(out[0, 1, :, 3].isnan().all())
    assert bool(out[0, 1, :, :3].isfinite().all()) and torch.equal(out[0, 0], clean[0, 0])


def test_the_float64_formulas_agree_with_the_reference() -> None:
    inputs = drawn([9, 0, 4], 2, 6, torch.float64, norm=True, tables=torch.float64)
    one, two = inputs.copy(), inputs.copy()
    expected = attention64(one)[0]
    found = attend(two, implementation=attention_choice("reference"), return_lse=False)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(expected, one.leaves(), gradient),
        torch.autograd.grad(found, two.leaves(), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
