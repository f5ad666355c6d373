"""Activations of 1e4 in bfloat16: norms, unit vectors and softmaxes stay finite and stay right."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_plugins.clip.image import ImageHead
from vtp_plugins.clip.loss import contrast
from vtp_plugins.dino.head import Head
from vtp_plugins.koleo.loss import spread, unit
from vtp_plugins.perceptual.loss import unit_length
from vtp_plugins.vit.attention import Attention, CropRows, Layout
from vtp_plugins.vit.norm import make_norm
from vtp_plugins.vit.rope import AxialRope

ROWS, WIDTH = 12, 16


class Attend(nn.Module):
    """Self-attention of 12 tokens, queries and keys normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(WIDTH, 2, qk_norm=True)
        self.rope = AxialRope(WIDTH // 2, base=100.0, dtype="float32", saved=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, Layout([CropRows(1, ROWS, self.rope((3, 4), x))]))
        return found


class Koleo(nn.Module):
    """How far each row is from its nearest neighbour."""

    def forward(self, x: Tensor) -> Tensor:
        rows = unit(x, 1e-8)
        return spread(rows, rows, torch.arange(len(rows)), 1e-8)


class Contrast(nn.Module):
    """Image-text contrast at the largest scale."""

    def forward(self, x: Tensor) -> Tensor:
        images = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        return contrast(images, images.flip(-1), images.new_tensor([100.0]), torch.arange(len(x)))[0]


class ImageEmbedding(nn.Module):
    """Class tokens to embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.head = ImageHead(WIDTH, 8, "cls")

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x[:, None])
        return found


class UnitFeatures(nn.Module):
    """Feature maps scaled to unit length, as the perceptual distance compares them."""

    def forward(self, x: Tensor) -> Tensor:
        return unit_length(x[:, :, None, None])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rmsnorm": lambda: make_norm("rmsnorm", WIDTH),
    "layernorm": lambda: make_norm("layernorm", WIDTH),
    "layernormbf16": lambda: make_norm("layernormbf16", WIDTH),
    "attention": Attend,
    "dino head": lambda: Head(WIDTH, 32, 8, 3),
    "koleo": Koleo,
    "contrast": Contrast,
    "image embedding": ImageEmbedding,
    "perceptual features": UnitFeatures,
}


def numbers(name: str, values: Tensor) -> Tensor:
    """What a network is fed: bfloat16, and layer norms the residual stream, which stays float32."""
    narrow = values.bfloat16()
    return (narrow.float() if name.startswith("layernorm") else narrow).requires_grad_()


def weighted_sum(found: Tensor) -> Tensor:
    return (found.float() * torch.linspace(-1, 1, found.numel()).view_as(found)).sum()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1e4, 1e18])
def test_is_near_float64(name: str, scale: float) -> None:
    network = NETWORKS[name]()
    x = numbers(name, torch.randn(ROWS, WIDTH) * scale)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    expected = copy.deepcopy(network).double()(x.detach().double())
    error = (found.double() - expected).norm() / expected.norm()
    assert error < 0.03
    weighted_sum(found).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_are_finite(name: str) -> None:
    x = numbers(name, torch.zeros(ROWS, WIDTH))
    network = NETWORKS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    assert found.isfinite().all()
    weighted_sum(found).backward()
    assert x.grad is not None and x.grad.isfinite().all()
