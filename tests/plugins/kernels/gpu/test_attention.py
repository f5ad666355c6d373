"""The attention of a GPU, forward and backward, against float64 on the CPU. Run by `make gpu`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.kernels.cpu.attention_oracle import Inputs, attention64, drawn, error, log_error
from tests.plugins.kernels.gpu.device import ATTENTION, DEVICE, MARKS, attention, other_stream
from vtp_core.ops import Rope, vit_attention

pytestmark = MARKS

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Largest error of output and gradients over the norm of what is right."""
ROTATED_IN_BFLOAT16 = 1e-2
"""The same of float32 inputs that are rounded to bfloat16 by the rotation."""


def call(name: str, inputs: Inputs, *, packed: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """Leaves on the device, output (T, H, d) and log-sum-exp (T, H)."""
    mine = inputs.copy()
    leaves = [x.detach().to(DEVICE).requires_grad_() for x in mine.leaves()]
    q, k, v, *norms = leaves
    q_norm, k_norm = norms or (None, None)
    rope = None if inputs.rope is None else Rope(*(table.to(DEVICE) for table in inputs.rope))
    arguments: dict[str, Any] = {
        "q_norm": q_norm, "k_norm": k_norm, "scale": inputs.scale, "return_lse": True,
        "implementation": attention(name),
    }  # fmt: skip
    if packed:
        out, lse = vit_attention(q, k, v, rope=rope, cu_seqlens=inputs.starts, **arguments)
        return leaves, out, lse
    batch, tokens = len(inputs.lengths), inputs.lengths[0]
    dense = (x.unflatten(0, (batch, tokens)).transpose(1, 2) for x in (q, k, v))
    if rope is not None:
        rope = Rope(*(table[:tokens] for table in rope))
    out, lse = vit_attention(*dense, rope=rope, **arguments)
    return leaves, out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)


def check(
    name: str, inputs: Inputs, tolerance: float, *, packed: bool, gradients: float | None = None
) -> None:
    exact = inputs.copy(torch.float64)
    expected, expected_lse = attention64(exact)
    leaves, out, lse = call(name, inputs, packed=packed)
    dout, dlse = torch.randn(expected.shape), torch.randn(expected_lse.shape)
    found = torch.autograd.grad((out, lse), leaves, (dout.to(out), dlse.to(lse)))
    right = torch.autograd.grad(
        (expected, expected_lse), exact.leaves(), (dout.to(out.dtype).double(), dlse.double())
    )
    assert out.dtype == inputs.q.dtype and lse.dtype == torch.float32
    assert error(out.cpu(), expected) <= tolerance
    assert log_error(lse.cpu(), expected_lse) <= tolerance
    for mine, wanted, leaf in zip(found, right, leaves, strict=True):
        assert mine.dtype == leaf.dtype
        assert error(mine.cpu(), wanted) <= (gradients or tolerance)


PACKED = [65, 17, 0, 1, 130]
DENSE = [67, 67]


def dense_rope(inputs: Inputs) -> Inputs:
    """The same positions in every sequence, as a dense call has them."""
    if inputs.rope is not None:
        tokens = inputs.lengths[0]
        tables = (table[:tokens].repeat(len(inputs.lengths), 1) for table in inputs.rope)
        inputs.rope = Rope(*tables)
    return inputs


@pytest.mark.parametrize("dressed", [False, True], ids=["plain", "norm+rope"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        (torch.float32, 32), (torch.float32, 64), (torch.float32, 128), (torch.bfloat16, 64),
        (torch.bfloat16, 96), (torch.float16, 64), (torch.float16, 128),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ATTENTION)
def test_forward_and_backward(name: str, dtype: torch.dtype, width: int, packed: bool, dressed: bool) -> None:
    lengths = PACKED if packed else DENSE
    tables = torch.float32 if dressed else None
    inputs = drawn(lengths, 2, width, dtype, norm=dressed, tables=tables)
    check(name, inputs if packed else dense_rope(inputs), TOLERANCE[dtype], packed=packed)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ATTENTION)
def test_tables_in_bfloat16(name: str, dtype: torch.dtype, packed: bool) -> None:
    """As the recipes of VTP have them: queries and keys are rounded to bfloat16 by the rotation."""
    inputs = drawn(PACKED if packed else DENSE, 3, 64, dtype, norm=True, tables=torch.bfloat16)
    tolerance = max(TOLERANCE[dtype], ROTATED_IN_BFLOAT16)
    check(name, inputs if packed else dense_rope(inputs), tolerance, packed=packed)


@pytest.mark.parametrize("width", [40, 72])
def test_widths_that_16_does_not_divide(width: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check("triton", drawn(PACKED, 2, width, dtype), TOLERANCE[dtype], packed=True)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_class_token_is_not_rotated(name: str) -> None:
    tokens, width = 50, 64
    q, k, v = torch.randn(3, 2, 3, tokens, width).unbind()
    angles = torch.randn(tokens - 1, width // 2).repeat(1, 2)
    rope = Rope(angles.cos(), angles.sin())
    whole = Rope(torch.cat((torch.ones(1, width), rope.cos)), torch.cat((torch.zeros(1, width), rope.sin)))
    packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    tables = Rope(whole.cos.repeat(2, 1), whole.sin.repeat(2, 1))
    expected, _ = attention64(Inputs(*packed, [tokens, tokens], width**-0.5, rope=tables))
    out = vit_attention(
        q.to(DEVICE),
        k.to(DEVICE),
        v.to(DEVICE),
        rope=Rope(rope.cos.to(DEVICE), rope.sin.to(DEVICE)),
        implementation=attention(name),
    )
    assert error(out.transpose(1, 2).flatten(0, 1).cpu(), expected) <= 1e-5


@pytest.mark.parametrize("name", ATTENTION)
def test_the_crops_of_a_recipe(name: str) -> None:
    """Views of one projection, as a layer makes them; twice, and on another stream, equal bits."""
    lengths = [257] * 4 + [50] * 16
    qkv = torch.randn(sum(lengths), 3, 6, 64).bfloat16()
    inputs = Inputs(*qkv.unbind(1), lengths, 64**-0.5)
    expected, _ = attention64(inputs.copy(torch.float64))
    leaf = qkv.to(DEVICE).requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        out = vit_attention(*leaf.unbind(1), cu_seqlens=inputs.starts, implementation=attention(name))
        return out.detach(), torch.autograd.grad(out.float().square().sum(), leaf)[0]

    first = both()
    assert error(first[0].cpu(), expected) <= TOLERANCE[torch.bfloat16]
    with other_stream():
        second = both()
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ATTENTION)
def test_nan_stays_in_its_sequence(name: str) -> None:
    q, k, v = (x.to(DEVICE) for x in torch.randn(3, 30, 1, 32).unbind())
    q[2], k[20] = torch.nan, torch.nan
    out = vit_attention(q, k, v, cu_seqlens=torch.tensor([0, 12, 30]), implementation=attention(name))
    bad = out.isnan().any(-1).flatten()
    assert bad.nonzero().flatten().tolist() == [2, *range(12, 30)]


@pytest.mark.parametrize("name", ATTENTION)
def test_nothing_to_attend_to(name: str) -> None:
    for shape in ((0, 2, 32), (0, 2, 5, 32), (2, 2, 0, 32)):
        q = torch.randn(shape, device=DEVICE, requires_grad=True)
        starts = torch.tensor([0, 0, 0]) if len(shape) == 3 else None
        out = vit_attention(q, q, q, cu_seqlens=starts, implementation=attention(name))
        assert out.shape == shape and torch.autograd.grad(out.sum(), q)[0].shape == shape


@pytest.mark.parametrize("name", ATTENTION)
def test_a_packed_call_compiles_as_one_graph(name: str) -> None:
    q = torch.randn(20, 1, 32, device=DEVICE, requires_grad=True)
    starts, chosen = torch.tensor([0, 7, 20]), attention(name)

    def attend(x: Tensor) -> Tensor:
        return vit_attention(x, x, x, cu_seqlens=starts, implementation=chosen)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q), attend(q))
    assert torch.equal(
        torch.autograd.grad(compiled(q).sum(), q)[0], torch.autograd.grad(attend(q).sum(), q)[0]
    )
