"""What torch sees of the C++ attention: opcheck, compile, threads, checkpointing, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.plugins.kernels.cpu.attention_oracle import drawn
from vtp_core.errors import UsageError
from vtp_core.ops import AttentionCase, AttentionChoice, Rope, attention_choice, vit_attention
from vtp_plugins.kernels.cpu.attention import KERNEL

CHOICE = AttentionChoice((KERNEL,))

pytestmark = pytest.mark.skipif(KERNEL.missing() is not None, reason=f"cpu attention {KERNEL.missing()}")


def leaves(count: int, *shape: int) -> list[Tensor]:
    return [torch.randn(*shape).requires_grad_() for _ in range(count)]


# What opcheck itself warns of: it reads .grad of copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(packed: bool) -> None:
    shape = (11, 2, 8) if packed else (2, 11, 2, 8)
    starts = torch.tensor([0, 4, 4, 11]) if packed else None
    tables = torch.randn(2, 11 if packed else 10, 8).unbind()
    forward, backward = torch.ops.vtp_cpu.attention_forward, torch.ops.vtp_cpu.attention_backward
    for rest in ((*leaves(2, 8), *tables), (None, None, None, None)):
        inputs = leaves(3, *shape)
        torch.library.opcheck(forward, (*inputs, *rest, starts, 0.3))
        constant = [x.detach() for x in inputs]
        norms = [None if x is None else x.detach() for x in rest]
        out, lse = forward(*constant, *norms, starts, 0.3)
        for grad_lse in (None, torch.randn_like(lse)):
            arguments = (torch.randn_like(out), grad_lse, *constant, out, lse, *norms, starts, 0.3)
            torch.library.opcheck(backward, arguments)


@pytest.mark.parametrize("packed", [False, True])
def test_compiles_to_one_graph(packed: bool) -> None:
    shape = (11, 2, 8) if packed else (2, 2, 11, 8)
    starts = torch.tensor([0, 4, 4, 11]) if packed else None
    rope = Rope(*torch.randn(2, 11, 8).unbind())
    inputs = [*leaves(3, *shape), *leaves(2, 8)]

    def run(q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor, k_norm: Tensor) -> Tensor:
        return vit_attention(
            q, k, v, q_norm=q_norm, k_norm=k_norm, rope=rope, cu_seqlens=starts, implementation=CHOICE
        )

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected, found = run(*inputs), compiled(*inputs)
    assert torch.equal(found, expected)
    gradient = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (1, None, 2), (None, 0, None), (4, 3, 0)])
@pytest.mark.parametrize("tokens", [0, 9])
def test_vmap(in_dims: tuple[int | None, ...], tokens: int) -> None:
    given = [torch.randn(3, 2, 2, tokens, 8) for _ in range(3)]
    rope = Rope(*torch.randn(2, max(tokens - 1, 0), 8).unbind())
    norm = torch.rand(8) + 0.5

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return vit_attention(q, k, v, q_norm=norm, rope=rope, return_lse=True, implementation=CHOICE)

    moved = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(given, in_dims, strict=True)]
    found = torch.vmap(run, in_dims=in_dims)(*moved)
    for at in range(3):
        one = run(*(x[0] if dim is None else x[at] for x, dim in zip(given, in_dims, strict=True)))
        assert all(map(torch.equal, (part[at] for part in found), one))


def test_vmap_of_packed_sequences_and_of_norms() -> None:
    q, norms, starts = torch.randn(3, 7, 2, 8), torch.rand(3, 8), torch.tensor([0, 3, 7])

    def run(q: Tensor, norm: Tensor) -> Tensor:
        return vit_attention(q, q, q, k_norm=norm, cu_seqlens=starts, implementation=CHOICE)

    for in_dims in ((0, None), (None, 0), (0, 0)):
        given = [x[0] if dim is None else x for x, dim in zip((q, norms), in_dims, strict=True)]
        found = torch.vmap(run, in_dims=in_dims)(*given)
        for at in range(3):
            one = run(*(x if dim is None else x[at] for x, dim in zip(given, in_dims, strict=True)))
            assert torch.equal(found[at], one)


def test_vmap_over_nothing() -> None:
    norm, starts = torch.rand(8), torch.tensor([0, 3, 7])
    dense = torch.vmap(lambda q: vit_attention(q, q, q, implementation=CHOICE))(torch.zeros(0, 2, 3, 9, 8))
    assert dense.shape == (0, 2, 3, 9, 8)

    def packed(q: Tensor) -> Tensor:
        return vit_attention(q, q, q, k_norm=norm, cu_seqlens=starts, implementation=CHOICE)

    assert torch.vmap(packed, in_dims=1)(torch.zeros(7, 0, 2, 8)).shape == (0, 7, 2, 8)


def test_many_gradients_of_one_call_and_gradients_through_a_batch() -> None:
    q, k, v = leaves(3, 2, 2, 5, 8)
    out = vit_attention(q, k, v, implementation=CHOICE)
    given = torch.randn(3, *out.shape)
    [many] = torch.autograd.grad(out, q, given, is_grads_batched=True, retain_graph=True)
    for at in range(3):
        assert torch.equal(many[at], torch.autograd.grad(out, q, given[at], retain_graph=True)[0])
    [x] = leaves(1, 3, 1, 2, 5, 8)
    together = torch.vmap(lambda q: vit_attention(q, q, q, implementation=CHOICE))(x)
    apart = torch.stack([vit_attention(one, one, one, implementation=CHOICE) for one in x])
    gradient = torch.randn_like(together)
    assert torch.equal(together, apart)
    torch.testing.assert_close(
        torch.autograd.grad(together, x, gradient), torch.autograd.grad(apart, x, gradient), rtol=0, atol=0
    )


def test_bad_bounds_are_refused_inside_a_graph_too() -> None:
    q = torch.randn(5, 1, 8)
    run = torch.compile(
        lambda starts: vit_attention(q, q, q, cu_seqlens=starts, implementation=CHOICE),
        fullgraph=True,
        backend="aot_eager",
    )
    assert run(torch.tensor([0, 2, 5])).shape == q.shape
    for starts in ([0, 2, 6], [1, 2, 5], [0, 4, 3, 5]):
        with pytest.raises(RuntimeError, match="cu_seqlens must rise from 0 to 5"):
            run(torch.tensor(starts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[257, 257, 37, 37, 1, 0], [1100]])
def test_equal_bits_for_any_number_of_threads(dtype: torch.dtype, lengths: list[int]) -> None:
    inputs = drawn(lengths, 2, 32, dtype, norm=True, tables=torch.float32)

    def results() -> list[Tensor]:
        own = inputs.copy()
        out, lse = vit_attention(
            own.q, own.k, own.v, q_norm=own.q_norm, k_norm=own.k_norm, rope=own.rope,
            cu_seqlens=own.starts, return_lse=True, implementation=CHOICE,
        )  # fmt: skip
        gradient = torch.linspace(-1, 1, out.numel()).view_as(out).to(dtype)
        return [out, lse, *torch.autograd.grad(out, own.leaves(), gradient)]

    before = torch.get_num_threads()
    expected = results()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(), expected))
    finally:
        torch.set_num_threads(before)


def test_only_the_gradient_of_the_log_sum_exp() -> None:
    q, k, v = leaves(3, 1, 2, 5, 4)
    _, lse = vit_attention(q, k, v, return_lse=True, implementation=CHOICE)
    [found] = torch.autograd.grad(lse.sum(), q)
    # d lse / d q is the attention-weighted mean of the scaled keys.
    torch.testing.assert_close(found, vit_attention(q, k, k, implementation=CHOICE) * 0.5)


def test_the_three_gradients_are_parts_of_one_tensor() -> None:
    q, k, v = leaves(3, 6, 2, 8)
    out = vit_attention(q, k, v, cu_seqlens=torch.tensor([0, 6]), implementation=CHOICE)
    found = torch.autograd.grad(out.sum(), (q, k, v))
    assert len({x.untyped_storage().data_ptr() for x in found}) == 1
    assert [x.storage_offset() for x in found] == [0, 16, 32]


def test_a_second_derivative_is_a_clear_error() -> None:
    [q] = leaves(1, 1, 1, 3, 4)
    out = vit_attention(q, q, q, implementation=CHOICE)
    [first] = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(UsageError, match=r'no second derivative; use .* attention = "reference"'):
        first.sum().backward()


def test_rotary_tables_have_no_gradient() -> None:
    q = torch.randn(1, 1, 3, 4)
    rope = Rope(*torch.randn(2, 3, 4).requires_grad_().unbind())
    with pytest.raises(UsageError, match="no gradient for rotary tables"):
        vit_attention(q, q, q, rope=rope, implementation=CHOICE)
    with torch.no_grad():
        assert vit_attention(q, q, q, rope=rope, implementation=CHOICE).shape == q.shape


def test_checkpointing_inference_mode_and_autocast_change_nothing() -> None:
    q, k, v = leaves(3, 1, 2, 9, 8)

    def run(*tensors: Tensor) -> Tensor:
        return vit_attention(*tensors, implementation=CHOICE)

    expected = run(q, k, v)
    gradients = torch.autograd.grad(expected.sum(), (q, k, v))
    again = checkpoint(run, q, k, v, use_reentrant=False)
    assert torch.equal(again, expected)
    assert all(map(torch.equal, torch.autograd.grad(again.sum(), (q, k, v)), gradients))
    with torch.inference_mode():
        assert torch.equal(run(q, k, v), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(q, k, v), expected)


@pytest.mark.parametrize("shape", [(0, 2, 5, 8), (2, 0, 5, 8), (2, 2, 0, 8)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    q, k, v = leaves(3, *shape)
    [weight] = leaves(1, 8)
    out, lse = vit_attention(q, k, v, q_norm=weight, return_lse=True, implementation=CHOICE)
    assert out.shape == shape and lse.shape == shape[:-1]
    out.sum().backward()
    assert q.grad is not None and q.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(8))


def case(**changes: Any) -> AttentionCase:
    given = {
        "device": "cpu",
        "dtype": torch.float32,
        "tokens": 65,
        "width": 64,
        "packed": False,
        "lse": False,
    }
    return AttentionCase(**{**given, **changes})


def test_auto_takes_it_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = attention_choice("auto", [KERNEL])
    monkeypatch.setenv("VTP_CPU_ISA", "portable")
    assert auto.pick(case()).name == "sdpa"
    assert auto.pick(case(dtype=torch.bfloat16)).name == "cpu"
    monkeypatch.delenv("VTP_CPU_ISA")
    assert auto.pick(case()).name == ("sdpa" if torch.ops.vtp_cpu.isa() == "portable" else "cpu")
    assert auto.pick(case(dtype=torch.bfloat16, packed=True, lse=True)).name == "cpu"
    others = (
        {"dtype": torch.float64},
        {"dtype": torch.float16},
        {"device": "cuda"},
        {"width": 257},
        {"rope": torch.float16},
    )
    for changes in others:
        assert auto.pick(case(**changes)).name != "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": torch.float64}, "cpu has no float64"),
        ({"dtype": torch.float16}, "cpu has no float16"),
        ({"width": 300}, "cpu has head widths 1 to 256, not 300"),
        ({"rope": torch.float16}, "cpu does not rotate in float16"),
        ({"device": "cuda"}, "cpu needs cpu tensors"),
    ],
)
def test_what_it_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CHOICE.pick(case(**changes))


def test_the_operator_itself_checks_its_arguments() -> None:
    """Called past the contract, it must refuse and not crash."""
    forward = torch.ops.vtp_cpu.attention_forward
    q = torch.randn(1, 4, 2, 8)
    bad: list[tuple[Any, ...]] = [
        (q.double(), q, q, None, None, None, None, None, 1.0),
        (q, q[:, :3], q, None, None, None, None, None, 1.0),
        (q, q, q.bfloat16(), None, None, None, None, None, 1.0),
        (q, q, q, torch.ones(7), None, None, None, None, 1.0),
        (q, q, q, None, torch.ones(8).half(), None, None, None, 1.0),
        (q, q, q, None, None, torch.ones(5, 8), torch.ones(5, 8), None, 1.0),
        (q, q, q, None, None, torch.ones(4, 8), None, None, 1.0),
        (q[0], q[0], q[0], None, None, None, None, torch.tensor([0, 9]), 1.0),
        (q[0], q[0], q[0], None, None, None, None, torch.tensor([0.0, 4.0]), 1.0),
        (q[0], q[0], q[0], None, None, None, None, None, 1.0),
        (torch.randn(1, 2, 1, 300),) * 3 + (None, None, None, None, None, 1.0),
    ]
    for arguments in bad:
        with pytest.raises(RuntimeError):
            forward(*arguments)


@pytest.mark.parametrize(
    "lse",
    [torch.zeros(1, 1, 1), torch.zeros(1, 2, 20, dtype=torch.float64), torch.zeros(2, 20)],
    ids=["too small", "another dtype", "too few axes"],
)
def test_a_backward_with_other_statistics_is_refused_before_it_reads_them(lse: Tensor) -> None:
    q, k, v, out = (torch.randn(1, 20, 2, 16) for _ in range(4))
    with pytest.raises(RuntimeError, match=r"lse must be float32 on the CPU, \(B, H, N\)"):
        torch.ops.vtp_cpu.attention_backward(out, None, q, k, v, out, lse, None, None, None, None, None, 0.25)
