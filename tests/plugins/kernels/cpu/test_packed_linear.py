from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vtp_core.errors import UsageError
from vtp_plugins.kernels.cpu.packed_linear import PackedLinear, pack_linears, packing_available

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
    with torch.no_grad():
        found = PackedLinear(layer)(x)
    expected = x.double() @ layer.weight.double().T
    if bias:
        expected = expected + layer.bias.double()
    assert found.dtype == dtype and found.shape == expected.shape
    scale = (x.double().abs() @ layer.weight.double().abs().T) + 1
    assert ((found.double() - expected).abs() <= TOLERANCE[dtype] * scale).all()


def test_every_linear_layer_of_a_model_is_replaced_and_a_shared_one_stays_shared() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.GELU(), nn.Sequential(shared, nn.Linear(8, 3))).eval()
    x = torch.randn(5, 8)
    expected = model(x)
    assert pack_linears(model) == 3
    assert not [module for module in model.modules() if type(module) is nn.Linear]
    assert model[0] is model[2][0]
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training mode; call model.eval\(\) first"):
        pack_linears(nn.Sequential(nn.Linear(2, 2)))


def test_another_dtype_is_refused_and_nothing_was_replaced() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()).eval()
    with pytest.raises(UsageError, match=r"this one is torch.float64 on cpu; convert the model first"):
        pack_linears(model)
    assert all(type(layer) is nn.Linear for layer in model)


def test_another_input_dtype_is_named() -> None:
    with pytest.raises(ValueError, match=r"x is torch.bfloat16, but the weight was packed as torch.float32"):
        PackedLinear(nn.Linear(4, 4))(torch.zeros(1, 4, dtype=torch.bfloat16))
