from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vtp_plugins.kernels.cpu import packed_linear
from vtp_plugins.kernels.cpu.packed_linear import PackedLinear, pack_linears, packing_available, prepare

pytestmark = pytest.mark.skipif(not packing_available(), reason="this torch has no oneDNN")

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3}


@given(
    rows=st.integers(0, 70),
    widths=st.tuples(st.integers(1, 65), st.integers(1, 65)),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    strided=st.booleans(),
)
def test_a_packed_layer_multiplies_like_float64(
    rows: int, widths: tuple[int, int], bias: bool, dtype: torch.dtype, strided: bool
) -> None:
    layer = nn.Linear(*widths, bias=bias).to(dtype)
    x = torch.randn(rows, 2, widths[0] * 2).to(dtype)
    x = x[..., ::2] if strided else x[..., : widths[0]].contiguous()
    packed = PackedLinear(layer)
    with torch.no_grad():
        assert packed._applies_to(x)
        found = packed(x)
    expected = x.double() @ layer.weight.double().T
    if bias:
        expected = expected + layer.bias.double()
    assert found.dtype == dtype and found.shape == expected.shape
    scale = (x.double().abs() @ layer.weight.double().abs().T) + 1
    assert ((found.double() - expected).abs() <= TOLERANCE[dtype] * scale).all()


def test_every_linear_layer_of_a_model_is_replaced_and_a_shared_one_stays_shared() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.GELU(), nn.Sequential(shared, nn.Linear(8, 3))).eval()
    x, state = torch.randn(5, 8), copy.deepcopy(model.state_dict())
    expected = model(x)
    assert pack_linears(model) == 3
    assert not [module for module in model.modules() if type(module) is nn.Linear]
    assert model[0] is model[2][0]
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_what_can_not_be_packed_stays() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2).double(), Own(2, 2), nn.Linear(2, 2, device="meta")).eval()
    assert pack_linears(model) == 0
    assert [type(layer) for layer in model] == [nn.Linear, Own, nn.Linear]


def packed_layer() -> tuple[PackedLinear, torch.Tensor]:
    layer = nn.Linear(8, 6).eval()
    return PackedLinear(layer), torch.randn(5, 8)


def test_a_changed_weight_is_used_at_once() -> None:
    packed, x = packed_layer()
    with torch.no_grad():
        before = packed(x)
        packed.load_state_dict({"weight": torch.zeros(6, 8), "bias": torch.ones(6)})
        assert bool((packed(x) == 1).all()) and not bool((before == 1).all())
        assert bool((packed.to(torch.bfloat16)(x.bfloat16()) == 1).all())
        packed.weight = nn.Parameter(torch.ones(6, 8))
        packed.bias = nn.Parameter(torch.zeros(6))
        assert torch.allclose(packed(x), x.sum(1, keepdim=True).expand(-1, 6), atol=1e-5)


def test_gradients_reach_input_and_weight() -> None:
    packed, x = packed_layer()
    packed(x.requires_grad_()).sum().backward()
    assert packed.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(x.grad, packed.weight.detach().sum(0).expand_as(x))


def test_autocast_and_compile_give_what_a_linear_layer_gives() -> None:
    packed, x = packed_layer()
    plain = nn.Linear(8, 6)
    plain.load_state_dict(packed.state_dict())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = packed(x)
        assert found.dtype == torch.bfloat16 and torch.equal(found, plain(x))
    with torch.no_grad():
        compiled = torch.compile(packed, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), plain(x))


def test_a_copy_computes_as_a_linear_layer() -> None:
    packed, x = packed_layer()
    twin = copy.deepcopy(packed)
    with torch.no_grad():
        assert twin.weight is not packed.weight
        assert torch.equal(twin(x), nn.functional.linear(x, packed.weight, packed.bias))


def test_another_input_dtype_is_an_error_as_in_torch() -> None:
    packed, x = packed_layer()
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        packed(x.double())


def test_preparing_says_what_it_did() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert prepare(model) is None, "in training mode"
    assert prepare(model.eval()) == "2 linear layers packed for oneDNN"
    assert prepare(model) is None, "they are packed already"
    assert prepare(nn.Conv2d(1, 1, 1).eval()) is None


def test_a_torch_without_onednn_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "packing_available", lambda: False)
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    assert prepare(model) is None and type(model[0]) is nn.Linear
