"""`vit_attention`: every implementation against plain float64 formulas, gradients, packing, errors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.ops import AttentionCase, AttentionKernel, Rope, attention_choice, vit_attention
from vtp_core.ops.attention import default_choice
from vtp_core.ops.attention_torch import NORM_EPS

NAMES = ("reference", "matmul", "sdpa")


def drawn_rope(tokens: int, width: int, dtype: torch.dtype) -> Rope:
    """Tables in the half-split layout; any angles will do."""
    angles = torch.randn(tokens, width // 2, dtype=torch.float64).repeat(1, 2)
    return Rope(angles.cos().to(dtype), angles.sin().to(dtype))


def turned(x: Tensor, rope: Rope) -> Tensor:
    """Rotation as a product with 2 x 2 matrices, pair (i, i + d/2) by pair."""
    half = x.shape[-1] // 2
    turned = x.clone()
    for at, (cos, sin) in enumerate(zip(rope.cos.double(), rope.sin.double(), strict=True)):
        token = x.shape[-2] - len(rope.cos) + at
        for i in range(half):
            matrix = torch.stack((torch.stack((cos[i], -sin[i])), torch.stack((sin[i], cos[i]))))
            pair = torch.stack((x[..., token, i], x[..., token, i + half]), dim=-1)
            turned[..., token, i], turned[..., token, i + half] = (pair @ matrix.T).unbind(-1)
    return turned


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + NORM_EPS).sqrt() * weight


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    rope: Rope | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Float64, one query at a time, exponentials written out."""
    q, k, v = q.double(), k.double(), v.double()
    q = q if q_norm is None else normed(q, q_norm.double())
    k = k if k_norm is None else normed(k, k_norm.double())
    if rope is not None:
        q, k = turned(q, rope), turned(k, rope)
    outs, lses = [], []
    for n in range(q.shape[-2]):
        weights = ((q[..., n, None, :] * k).sum(-1) * scale).exp()
        outs.append((weights[..., None] * v).sum(-2) / weights.sum(-1, keepdim=True))
        lses.append(weights.sum(-1).log())
    return torch.stack(outs, dim=-2), torch.stack(lses, dim=-1)


@pytest.mark.parametrize("name", NAMES)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.sampled_from([2, 4, 6, 16])),
    prefix=st.integers(0, 2),
    norm=st.booleans(),
    rotate=st.booleans(),
    scale=st.sampled_from([None, 0.25, 1.0, -1.0]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula(
    name: str, shape: tuple[int, ...], prefix: int, norm: bool, rotate: bool, scale: float | None, seed: int
) -> None:
    torch.manual_seed(seed)
    width, tokens = shape[-1], shape[-2]
    q, k, v = torch.randn(3, *shape).unbind()
    q_norm, k_norm = (torch.rand(width) + 0.5, torch.rand(width) + 0.5) if norm else (None, None)
    rope = drawn_rope(max(tokens - prefix, 0), width, torch.float32) if rotate else None
    expected, expected_lse = oracle(q, k, v, q_norm, k_norm, rope, width**-0.5 if scale is None else scale)
    arguments: dict[str, Any] = {"q_norm": q_norm, "k_norm": k_norm, "rope": rope, "scale": scale}
    out = vit_attention(q, k, v, **arguments, implementation=attention_choice(name))
    torch.testing.assert_close(out, expected.float(), atol=2e-5, rtol=2e-5)
    if name != "sdpa":
        same, lse = vit_attention(
            q, k, v, **arguments, return_lse=True, implementation=attention_choice(name)
        )
        assert torch.equal(same, out)
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse, expected_lse.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=st.integers(0, 2**16))
def test_packed_sequences_do_not_see_each_other(name: str, lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    total, heads, width = sum(lengths), 2, 8
    q, k, v = torch.randn(3, total, heads, width).unbind()
    weight, rope = torch.rand(width) + 0.5, drawn_rope(total, width, torch.float32)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    arguments: dict[str, Any] = {"q_norm": weight, "k_norm": weight, "rope": rope, "cu_seqlens": starts}
    out = vit_attention(q, k, v, **arguments, implementation=attention_choice(name))
    assert out.shape == q.shape
    for start, stop in pairwise(starts.tolist()):
        one = [x[start:stop].transpose(0, 1)[None] for x in (q, k, v)]
        tables = Rope(rope.cos[start:stop], rope.sin[start:stop])
        expected, lse = oracle(*one, weight, weight, tables, width**-0.5) if stop > start else (one[0], None)
        torch.testing.assert_close(out[start:stop], expected[0].transpose(0, 1).float(), atol=2e-5, rtol=2e-5)
        if name != "sdpa" and lse is not None:
            _, found = vit_attention(
                q, k, v, **arguments, return_lse=True, implementation=attention_choice(name)
            )
            assert found.shape == (total, heads)
            torch.testing.assert_close(found[start:stop], lse[0].T.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_gradients(name: str, packed: bool) -> None:
    shape = (5, 2, 4) if packed else (2, 2, 4, 4)
    q, k, v = (x.requires_grad_() for x in torch.randn(3, *shape, dtype=torch.float64).unbind())
    q_norm, k_norm = (x.requires_grad_() for x in torch.rand(2, 4, dtype=torch.float64).unbind())
    rope = drawn_rope(5 if packed else 3, 4, torch.float64)
    starts = torch.tensor([0, 2, 2, 5]) if packed else None
    implementation = attention_choice(name)

    def run(*inputs: Tensor) -> Tensor:
        q, k, v, q_norm, k_norm = inputs
        return vit_attention(
            q, k, v, q_norm=q_norm, k_norm=k_norm, rope=rope, cu_seqlens=starts, implementation=implementation
        )

    assert torch.autograd.gradcheck(run, (q, k, v, q_norm, k_norm))


@pytest.mark.parametrize("name", NAMES)
def test_causal_attention_is_that_of_each_prefix(name: str) -> None:
    q, k, v = torch.randn(3, 2, 3, 6, 8, dtype=torch.float64).unbind()
    weight = torch.rand(8, dtype=torch.float64) + 0.5
    rope = drawn_rope(6, 8, torch.float64)
    arguments: dict[str, Any] = {"q_norm": weight, "causal": True, "implementation": attention_choice(name)}
    out = vit_attention(q, k, v, rope=rope, **arguments)
    for n in range(6):
        tables, prefix = Rope(rope.cos[: n + 1], rope.sin[: n + 1]), [x[:, :, : n + 1] for x in (q, k, v)]
        expected, _ = oracle(*prefix, weight, None, tables, 8**-0.5)
        torch.testing.assert_close(out[:, :, n], expected[:, :, n])
    packed = [torch.cat([x[i, :, :n] for i, n in enumerate((6, 4))], 1).transpose(0, 1) for x in (q, k, v)]
    tables = Rope(*(torch.cat((x, x[:4])) for x in rope))
    found = vit_attention(*packed, rope=tables, cu_seqlens=torch.tensor([0, 6, 10]), **arguments)
    same = torch.cat([out[0], out[1, :, :4]], 1).transpose(0, 1)
    torch.testing.assert_close(found, same)
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda q: vit_attention(q, k, v, rope=rope, **arguments), (q,))


def test_a_kernel_without_a_causal_mask_is_passed_over_and_refused_by_name() -> None:
    own = AttentionKernel(name="own", run=None, refuses=lambda case: None, suits=lambda case: True)  # type: ignore[arg-type]
    assert attention_choice("auto", [own]).pick(case()).name == "own"
    assert attention_choice("auto", [own]).pick(case(causal=True)).name == "sdpa"
    with pytest.raises(UsageError, match="own has no causal mask"):
        attention_choice("own", [own]).pick(case(causal=True))


@pytest.mark.parametrize("name", ["reference", "matmul"])
def test_log_sum_exp_has_a_gradient(name: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    q.requires_grad_()
    _, lse = vit_attention(q, k, v, return_lse=True, implementation=attention_choice(name))
    [found] = torch.autograd.grad(lse.sum(), q)
    # d lse / d q is the attention-weighted mean of the scaled keys.
    expected = vit_attention(q.detach(), k, k) * 4**-0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_bfloat16_stays_near_float64(name: str) -> None:
    q, k, v = torch.randn(3, 2, 3, 33, 32).bfloat16().unbind()
    weight = torch.rand(32) + 0.5
    rope = drawn_rope(32, 32, torch.float32)
    out = vit_attention(
        q, k, v, q_norm=weight, k_norm=weight, rope=rope, implementation=attention_choice(name)
    )
    expected, _ = oracle(q, k, v, weight, weight, rope, 32**-0.5)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_round(name: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8).unbind()
    choice = attention_choice(name)
    with torch.autocast("cpu", torch.bfloat16):
        inside = vit_attention(q, k, v, implementation=choice)
    assert torch.equal(inside, vit_attention(q, k, v, implementation=choice))


@pytest.mark.parametrize("packed", [False, True])
def test_compiles_with_what_is_installed(packed: bool) -> None:
    q = torch.randn(7, 2, 8) if packed else torch.randn(2, 3, 7, 8)
    starts = torch.tensor([0, 3, 7]) if packed else None
    packs = default_choice(torch.device("cpu")).pick(case(tokens=4, width=8, packed=True)).packs
    if packed and not packs:
        pytest.skip("no implementation that packs is installed")
    compiled = torch.compile(vit_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, q, q, cu_seqlens=starts), vit_attention(q, q, q, cu_seqlens=starts))


@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_torchs_own_can_not_be_one_graph_of_packed_sequences(name: str) -> None:
    torch._dynamo.reset()  # it remembers what it fell back on
    q, starts = torch.randn(7, 2, 8), torch.tensor([0, 3, 7])

    def run(q: Tensor, starts: Tensor) -> Tensor:
        return vit_attention(q, q, q, cu_seqlens=starts, implementation=choice)

    choice = attention_choice(name, [])
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"can.{1,2}t be compiled .* implementation="):
        torch.compile(run, fullgraph=True, backend="aot_eager")(q, starts)
    assert torch.equal(torch.compile(run, backend="aot_eager")(q, starts), run(q, starts))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_need_no_library_of_ours(strict: bool) -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return vit_attention(q, q, q)

    exported = torch.export.export(Attention(), (torch.randn(1, 2, 5, 8),), strict=strict)
    graphs = [
        part.graph for part in exported.graph_module.modules() if isinstance(part, torch.fx.GraphModule)
    ]
    called = " ".join(str(node.target) for graph in graphs for node in graph.nodes)
    assert "aten.scaled_dot_product_attention" in called and "vtp" not in called


def test_rotation_in_bfloat16_rounds_every_token() -> None:
    q, k = torch.randn(2, 1, 1, 3, 4).unbind()
    still = Rope(torch.ones(2, 4).bfloat16(), torch.zeros(2, 4).bfloat16())
    found = vit_attention(q, k, k, rope=still)
    expected = vit_attention(q.bfloat16().float(), k.bfloat16().float(), k)
    assert torch.equal(found, expected)


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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "sdpa"),
        ({"dtype": torch.bfloat16}, "matmul"),
        ({"dtype": torch.bfloat16, "tokens": 4096}, "sdpa"),
        ({"dtype": torch.bfloat16, "device": "cuda"}, "sdpa"),
        ({"lse": True}, "matmul"),
    ],
)
def test_auto(changes: dict[str, Any], expected: str) -> None:
    assert attention_choice(kernels=[]).pick(case(**changes)).name == expected


def test_auto_asks_plugins_first_and_passes_over_those_that_refuse() -> None:
    def run(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, None]:
        return q * 0 + 7, None

    def refuses(case: AttentionCase) -> str | None:
        return None if case.width == 8 else f"needs a head width of 8, not {case.width}"

    own = AttentionKernel(name="foo.fast", run=run, refuses=refuses, suits=lambda case: True)
    q = torch.randn(1, 1, 2, 8)
    assert bool((vit_attention(q, q, q, implementation=attention_choice("auto", [own])) == 7).all())
    assert attention_choice("auto", [own]).pick(case(width=4)).name == "sdpa"
    with pytest.raises(UsageError, match=r"foo\.fast needs a head width of 8, not 4"):
        attention_choice("foo.fast", [own]).pick(case(width=4))


def test_a_named_implementation_is_never_replaced() -> None:
    q = torch.randn(1, 1, 2, 4)
    with pytest.raises(UsageError, match="sdpa gives no log-sum-exp"):
        vit_attention(q, q, q, return_lse=True, implementation=attention_choice("sdpa"))
    with pytest.raises(UsageError, match="known: auto, matmul, sdpa, reference"):
        attention_choice("flash9", [])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"k": torch.zeros(1, 1, 3, 4)}, r"k is \(1, 1, 3, 4\).*q is \(1, 1, 2, 4\)"),
        ({"v": torch.zeros(1, 1, 2, 4, dtype=torch.float64)}, "v is .* float64"),
        ({"q_norm": torch.zeros(3)}, r"q_norm has shape \(3,\).* width is 4"),
        ({"rope": Rope(torch.zeros(3, 4), torch.zeros(3, 4))}, r"rope has cos \(3, 4\)"),
        ({"rope": Rope(torch.zeros(2, 4), torch.zeros(2, 2))}, r"rope has cos \(2, 4\) and sin \(2, 2\)"),
        ({"cu_seqlens": torch.tensor([0, 2])}, r"q must be floating point \(T, H, d\)"),
        ({"q_norm": torch.ones(4, device="meta")}, r"q_norm must be .* is \(4,\) float32 on meta.* on cpu"),
        ({"k_norm": torch.ones(4, dtype=torch.int64)}, r"k_norm must be floating point .* \(4,\) int64"),
        ({"rope": Rope(*torch.zeros(2, 2, 4, device="meta"))}, r"rope must be .* on meta .* on cpu"),
        ({"rope": Rope(torch.zeros(2, 4), torch.zeros(2, 4).bfloat16())}, r"rope must .* one dtype"),
        ({"rope": Rope(*torch.zeros(2, 2, 4, dtype=torch.int32))}, r"rope must be floating point .* int32"),
    ],
)
def test_bad_arguments_are_named(argument: dict[str, Any], message: str) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match=message):
        vit_attention(**{"q": q, "k": q, "v": q, **argument})


def test_heads_without_width_are_refused() -> None:
    q = torch.zeros(1, 1, 2, 0)
    with pytest.raises(ValueError, match=r"d >= 1, is \(1, 1, 2, 0\) float32"):
        vit_attention(q, q, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_sequence_bounds_are_int32_or_int64(dtype: torch.dtype) -> None:
    q = torch.zeros(3, 1, 4)
    with pytest.raises(ValueError, match=r"cu_seqlens must be int32 or int64, is \(2,\)"):
        vit_attention(q, q, q, cu_seqlens=torch.tensor([0, 3], dtype=dtype))


@pytest.mark.parametrize("starts", [[0, 1], [1, 3], [0, 2, 1, 3], []])
def test_bad_sequence_bounds(starts: list[int]) -> None:
    q = torch.zeros(3, 1, 4)
    with pytest.raises(ValueError, match="cu_seqlens must be 1-D and rise from 0 to 3"):
        vit_attention(q, q, q, cu_seqlens=torch.tensor(starts, dtype=torch.int32))
