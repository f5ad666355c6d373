"""Products that are counted, not computed: same shapes, same FLOPs as torch's own counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vtp_plugins.plan.products import FILL, Products

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": nn.Linear(6, 5),
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "convolution": lambda x: nn.Conv2d(1, 4, 3, padding=1)(x[:, None]),
    "transposed": lambda x: nn.ConvTranspose2d(1, 2, 2, stride=2)(x[:, None]),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_flops_forward_and_backward(name: str) -> None:
    x = torch.randn(3, 4, 6, requires_grad=True)
    with FlopCounterMode(display=False) as expected:
        real = CASES[name](x)
        real.sum().backward()
    flops: list[int] = []
    with Products(flops.append):
        pretended = CASES[name](x)
        pretended.sum().backward()
    assert pretended.shape == real.shape and pretended.dtype == real.dtype
    assert sum(flops) == expected.get_total_flops() > 0


def test_attention_counts_both_products_forward_and_five_backward() -> None:
    q, k, v = (torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3))
    flops: list[int] = []
    with Products(flops.append):
        out = F.scaled_dot_product_attention(q, k, v)
        out.sum().backward()
    product = 2 * 2 * 3 * 7 * 7 * 8
    assert flops == [2 * product, 5 * product]
    assert out.shape == v.shape


def test_values_are_constant_and_indexing_is_real() -> None:
    mask = torch.tensor([True, False, True])
    with Products(lambda _: None):
        out = (torch.randn(3, 4) @ torch.randn(4, 5))[mask]
    assert out.shape == (2, 5) and bool((out == FILL).all())
