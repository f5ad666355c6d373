"""The networks by themselves: conformance, and MAE and SigLIP2 against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.agreement import Agreement
from vtp_core import load
from vtp_core.errors import UsageError
from vtp_core.features import Features, Tokens
from vtp_core.parameters import Dims
from vtp_core.pixels import UNIT, convert
from vtp_core.testing import check_bottleneck, check_decoder, check_encoder
from vtp_plugins.rae.bottleneck import RaeBottleneck
from vtp_plugins.rae.config import RaeConfig, RaeDecoderConfig, RaeEncoderConfig
from vtp_plugins.rae.decoder import RaeDecoder
from vtp_plugins.rae.encoder import LICENSES, RaeEncoder

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "hidden": 24}
SIZES: dict[str, Any] = {"input_size": 24, "native_patch": 8, "positions": 4, "patch": 8}
DIMS = Dims(width=16, patch=8, depth=2, has_cls=True, channels=16)


@pytest.mark.parametrize("family", LICENSES)
def test_the_encoder_conforms(family: str) -> None:
    check_encoder(RaeEncoder, RaeEncoderConfig(**SMALL, **SIZES, family=family))


def test_bottleneck_and_decoder_conform() -> None:
    check_bottleneck(RaeBottleneck, RaeConfig(), dims=DIMS)
    check_decoder(RaeDecoder, RaeDecoderConfig(**SMALL, grid=3), dims=DIMS, grid=(3, 3))


def test_statistics_are_those_of_each_channel_at_each_position() -> None:
    bottleneck = RaeBottleneck(RaeConfig(grid=2), DIMS).double()
    decoder = RaeDecoder(RaeDecoderConfig(**SMALL, grid=2), DIMS).double()
    assert bottleneck.mean is not None and bottleneck.var is not None
    with torch.no_grad():
        bottleneck.mean.normal_()
        bottleneck.var.uniform_(0, 1)
        decoder.load_state_dict({**decoder.state_dict(), **bottleneck.state_dict()})
    tokens = torch.randn(3, 1, 4, 16).double()
    z = bottleneck(Features(crops={"global": Tokens(patches=tokens, grid=(2, 2))})).z
    for row, column, channel in ((0, 0, 0), (1, 0, 5), (0, 1, 15)):
        raw = tokens[:, 0, 2 * row + column, channel]
        mean, var = (value[channel, row, column] for value in (bottleneck.mean, bottleneck.var))
        torch.testing.assert_close(z[:, channel, row, column], (raw - mean) / (var + 1e-5) ** 0.5)
    plain = RaeDecoder(RaeDecoderConfig(**SMALL, grid=2, normalized=False), DIMS).double()
    plain.load_state_dict({k: v for k, v in decoder.state_dict().items() if k not in ("mean", "var")})
    raw_map = tokens[:, 0].transpose(1, 2).unflatten(2, (2, 2))
    torch.testing.assert_close(decoder(z), plain(raw_map))
    with pytest.raises(UsageError, match="statistics of 2 x 2"):
        bottleneck(Features(crops={"global": Tokens(patches=tokens, grid=(4, 1))}))
    with pytest.raises(UsageError, match="decodes latents of 2 x 2"):
        decoder(torch.zeros(1, 16, 4, 4).double())


def write(folder: Path, family: str, input_size: int, side: int) -> Path:
    """A published folder around an encoder that is there, with a random decoder."""
    cls = {"mae": "MAEwNorm", "siglip2": "SigLIP2wNorm"}[family]
    params = {
        "encoder_cls": cls,
        "encoder_params": {"model_name": "encoder"},
        "encoder_config_path": "encoder",
        "encoder_input_size": input_size,
        "decoder_config_path": "decoder",
        "decoder_patch_size": 8,
        "pretrained_decoder_path": "model.safetensors",
        "normalization_stat_path": None,
    }
    table = {"stage_1": {"target": "stage1.RAE", "params": params}}
    (folder / "config.json").write_text(json.dumps(table))
    (folder / "decoder").mkdir()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {f"decoder_{name}": size for name, size in zip(names, (16, 1, 2, 24), strict=True)}
    (folder / "decoder" / "config.json").write_text(json.dumps({**sizes, "patch_size": "SHOULD BE RELOADED"}))
    pixels = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps(pixels))
    block = {
        **{f"attention.attention.{part}.weight": (16, 16) for part in ("query", "key", "value")},
        "attention.output.dense.weight": (16, 16),
        "intermediate.dense.weight": (24, 16),
        "output.dense.weight": (16, 24),
        "layernorm_before.weight": (16,),
        "layernorm_after.weight": (16,),
    }
    layers = {f"decoder_layers.0.{name}": shape for name, shape in block.items()}
    layers |= {
        "decoder_embed.weight": (16, 32),
        "decoder_norm.weight": (16,),
        "decoder_pred.weight": (192, 16),
    }
    shapes = layers | {name.replace(".weight", ".bias"): shape[:1] for name, shape in layers.items()}
    shapes |= {"decoder_pos_embed": (1, 1 + side**2, 16), "trainable_cls_token": (1, 1, 16)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.agrees("RAE's MAE and SigLIP2: tokens, other grids", "transformers", 2e-5)
@pytest.mark.parametrize("family", ["mae", "siglip2"])
@torch.no_grad()
def test_as_transformers(family: str, tmp_path: Path, agreement: Agreement) -> None:
    """Positions of 3 x 3 are interpolated to 5 x 5; the owner drops the class token and the norm's affine."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"image_size": 24, "patch_size": 8}
    model: Any
    if family == "mae":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}
        config = transformers.ViTMAEConfig(**sizes, **decoder, decoder_num_attention_heads=2, mask_ratio=0.0)
        model = transformers.ViTMAEForPreTraining(config)
        tower = model.vit
    else:
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.SiglipConfig(vision_config=sizes, text_config={**text, "vocab_size": 32})
        model = transformers.SiglipModel(config)
        tower = model.vision_model
    for name, parameter in model.named_parameters():
        if "position" in name or parameter.dim() == 1:  # biases and scales of zero or one hide errors
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path / "encoder")
    ours = load(write(tmp_path, family, input_size=40, side=5))

    images = torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    given: dict[str, Any] = {"pixel_values": (images - mean) / std, "interpolate_pos_encoding": True}
    if family == "mae":
        given["noise"] = torch.arange(25.0).expand(2, -1)
    norm = tower.layernorm if family == "mae" else tower.post_layernorm
    hidden = (tower(**given).last_hidden_state - norm.bias) / norm.weight
    expected = hidden[:, 1:] if family == "mae" else hidden
    pixels = convert(images, UNIT, "imagenet")
    latents = ours.encode(pixels).latent
    agreement(latents.flatten(2).transpose(1, 2), expected)
    # Without statistics encode_normalized has nothing to go by.
    with pytest.raises(UsageError, match="no latent statistics"):
        ours.encode_normalized(pixels)
    assert ours.decode(latents).sample.shape == images.shape
