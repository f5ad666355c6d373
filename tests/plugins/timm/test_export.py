"""`vtp export --format timm`: timm's own architectures by timm alone, others with timm's interface."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vtp_core
from tests.agreement import Agreement
from vtp_core import load
from vtp_core.artefact import ArtefactConfig
from vtp_core.artefact.assembly import assemble
from vtp_core.errors import CheckpointError
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.timm.format import TimmFormat
from vtp_plugins.timm.models import EncoderModule

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2}
VIT: dict[str, Any] = {"use": "vit", "width": 16, "depth": 3, "heads": 1, "patch": 8}


def tokenizer(encoder: dict[str, Any]) -> Tokenizer:
    torch.manual_seed(0)
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        recipe="tiny",
        encoder=encoder,
        bottleneck={"use": "linear", "channels": 4},
        image_size=32,
    )
    model = assemble(config, load_plugins())
    with torch.no_grad():  # initial layer scales and zeros would hide the blocks
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def written(model: Tokenizer, folder: Path) -> Path:
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        TimmFormat().write(model, folder)
    assert str(notes[-1].message) == "left out, as timm has encoders alone: bottleneck"
    return folder


def pixels(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


@pytest.mark.agrees("exported encoders of timm's architectures, loaded by timm", "timm", 1e-5, relative=True)
@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2.lvd142m",
        "vit_base_patch16_siglip_256.webli",
        "vit_base_patch16_224.mae",
    ],
)
def test_timm_alone_loads_its_own(name: str, tmp_path: Path, agreement: Agreement) -> None:
    model = tokenizer({"use": "timm", "name": name, "weights": "random", "options": SMALL})
    folder = written(model, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == name.split(".")[0] and "vtp" not in json.dumps(config["model_args"])
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).double().eval()
    side = 2 * model.encoder.patch
    images = pixels(side, 2 * side).double()
    unit = images * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    unit = unit + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = network.forward_features((unit - mean) / std)
    agreement(model.double().features(images).patches[:, 0], tokens[:, network.num_prefix_tokens :])
    with pytest.raises(CheckpointError, match="an encoder for timm, no tokenizer"):
        load(folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    model = tokenizer(VIT)
    return model, written(model, tmp_path_factory.mktemp("timm") / "out")


def test_another_encoder_has_timms_interface(ours: tuple[Tokenizer, Path]) -> None:
    model, folder = ours
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(network, EncoderModule) and network.num_features == 16
    images = pixels(16, 24)
    expected = model.features(images, layers=[0, 2])
    with torch.no_grad():
        tokens, maps = network.forward_intermediates(images)
        normed = network.forward_intermediates(images, indices=[-1], norm=True, intermediates_only=True)
        (pair,) = network.forward_intermediates(
            images, indices=1, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        assert torch.equal(network(images), expected.cls[:, 0])
        torch.testing.assert_close(network.forward_head(tokens, pre_logits=True), expected.cls[:, 0])
    torch.testing.assert_close(tokens[:, 1:], expected.patches[:, 0])
    torch.testing.assert_close(tokens[:, 0], expected.cls[:, 0])
    layers = expected["global"].layers
    assert [each.shape for each in maps] == [(2, 16, 2, 3)] * 3
    torch.testing.assert_close(maps[0].flatten(2).transpose(1, 2), layers[0][:, 0])
    torch.testing.assert_close(pair[0], layers[2][:, 0])
    torch.testing.assert_close(normed[0].flatten(2).transpose(1, 2), tokens[:, 1:])
    assert pair[1].shape == (2, 1, 16)


def test_features_and_classifier_by_timm(ours: tuple[Tokenizer, Path]) -> None:
    _, folder = ours
    features = timm.create_model(
        f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(0, 2)
    )
    assert features.feature_info.channels() == [16, 16] and features.feature_info.reduction() == [8, 8]
    assert [each.shape for each in features(pixels(16, 24))] == [(2, 16, 2, 3)] * 2
    classifier = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=5, global_pool="avg")
    classifier(pixels(16, 16)).sum().backward()
    assert classifier.get_classifier().weight.grad.abs().sum() > 0
    classifier.reset_classifier(0)
    assert isinstance(classifier.get_classifier(), nn.Identity) and classifier(pixels(16, 16)).shape == (
        2,
        16,
    )
    for call in (
        lambda: classifier.reset_classifier(2, "map"),
        lambda: classifier.forward_intermediates(pixels(16, 16), indices=[3]),
        lambda: classifier.forward_intermediates(pixels(16, 16), output_fmt="NHWC"),
        lambda: classifier.set_grad_checkpointing(),
        lambda: EncoderModule(VIT, in_chans=1),
    ):
        with pytest.raises(ValueError, match=r"^vtp_encoder: "):
            call()


def test_an_encoder_without_class_token() -> None:
    module = EncoderModule({"use": "cnn", "channels": 32, "multipliers": (1, 2), "attention": ()}).eval()
    assert module.num_prefix_tokens == 0 and module.global_pool == "avg"
    assert module(pixels(8, 12)).shape == (2, module.num_features)
    with pytest.raises(ValueError, match="patches of blocks before its norm alone"):
        module.forward_intermediates(pixels(8, 12), norm=True)
