"""Recipe tables of `vit`: presets, widths of the feed-forward layer, parameter counts, rules."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vtp_core.errors import UsageError
from vtp_core.parameters import Dims, ParamRule
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_plugins.vit.config import VitDecoderConfig, VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder


def test_a_preset_sets_what_is_not_given() -> None:
    assert (
        VitEncoderConfig(preset="nano").model_dump().items() >= {"width": 96, "depth": 4, "heads": 3}.items()
    )
    mixed = VitEncoderConfig(preset="l", depth=4)
    assert (mixed.width, mixed.depth, mixed.heads) == (1024, 4, 16)
    assert VitEncoderConfig(**mixed.model_dump()) == mixed


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ({"preset": "s"}, 1024),
        ({"preset": "b"}, 2048),
        ({"preset": "l"}, 2736),
        ({"preset": "l", "ffn": "swiglu32"}, 2752),
        ({"preset": "l", "ffn": "swiglu64"}, 2752),
        ({"preset": "l", "ffn": "swiglu128"}, 2816),
        ({"preset": "l", "ffn": "mlp"}, 4096),
        ({"width": 64, "heads": 2}, 176),
        ({"width": 64, "heads": 2, "mlp_ratio": 3.5, "ffn": "mlp"}, 224),
    ],
)
def test_hidden_width(given: dict[str, Any], hidden: int) -> None:
    assert VitEncoderConfig(**given).hidden == hidden


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder"), [("s", 21.61, 21.62), ("b", 85.69, 85.71), ("l", 303.55, 303.59)]
)
def test_parameters_of_the_published_sizes(preset: str, encoder: float, decoder: float) -> None:
    # Millions, from the published code: encoder with its 64-channel projection.
    with torch.device("meta"):
        config = VitEncoderConfig(preset=preset)
        trunk = VitEncoder(config)
        dims = Dims(width=config.width, patch=16, depth=config.depth, has_cls=True, channels=64)
        pixels = VitDecoder(VitDecoderConfig(preset=preset), dims)
    found = sum(p.numel() for p in trunk.parameters()) + 64 * config.width
    assert found / 1e6 == pytest.approx(encoder, abs=0.03)
    assert sum(p.numel() for p in pixels.parameters()) / 1e6 == pytest.approx(decoder, abs=0.03)


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"preset": "xl"}, ("preset",), "nano"),
        ({"width": 100, "heads": 3}, (), "multiple of 4"),
        ({"width": 24, "heads": 4}, (), "multiple of 4"),
        ({"wdith": 24}, ("wdith",), "Extra inputs"),
        ({"norm": "batchnorm"}, ("norm",), "rmsnorm"),
    ],
)
def test_errors_name_the_key(given: dict[str, Any], where: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VitEncoderConfig(**given)
    [error] = caught.value.errors()
    assert error["loc"] == where
    assert message in error["msg"]


def rule_of(name: str, rules: list[ParamRule]) -> ParamRule:
    return next((rule for rule in rules if fnmatchcase(name, rule.pattern)), ParamRule(pattern="*"))


def test_rules_decay_layers_and_spare_tokens() -> None:
    config = VitEncoderConfig(
        width=24, depth=12, heads=2, patch=4, layer_scale=0.1, layer_decay=0.5, patch_embed_lr=0.2
    )
    model = VitEncoder(config)
    rules = list(model.rules())
    for name, _ in model.named_parameters():
        rule = rule_of(name, rules)
        assert rule.decay == (0.0 if "token" in name else None), name
        if name.startswith("block."):
            expected = 0.5 ** (12 - int(name.split(".")[1]))
        else:
            expected = 1.0 if name.startswith("norm") else 0.5**13
        if name.startswith("patch_embed"):
            expected *= 0.2
        assert rule.lr == pytest.approx(expected), name


def test_a_recipe_can_give_the_decoder_s_range() -> None:
    recipe = load_recipe("quickstart", ["decoder.value_range=[0, 1.0]"], load_plugins())
    assert isinstance(recipe.decoder, VitDecoderConfig) and recipe.decoder.value_range == (0.0, 1.0)
    with pytest.raises(UsageError, match="value_range"):
        load_recipe("quickstart", ["decoder.value_range=[0, 1, 2]"], load_plugins())
