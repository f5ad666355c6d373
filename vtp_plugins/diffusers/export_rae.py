"""A tokenizer of the plugin `rae` as settings and weights of diffusers' AutoencoderRAE."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers.layout import CLASS
from vtp_plugins.diffusers.weights import current_name
from vtp_plugins.rae.bottleneck import RaeBottleneck
from vtp_plugins.rae.config import RaeDecoderConfig, RaeEncoderConfig
from vtp_plugins.rae.decoder import RaeDecoder
from vtp_plugins.rae.encoder import RaeEncoder
from vtp_plugins.rae.layout import decoder_tensors, encoder_tensors

HEAD_WIDTH = 64
"""Of every encoder that AutoencoderRAE builds."""
STD_EPS = 1e-5
"""What it adds to the deviation of the latents."""
NATIVE = {"dinov2": (518, 1e-6, None), "mae": (224, 1e-12, 3072)}
"""Family -> side of the images of its stored positions, epsilon of its norms, and width of its feed-forward
layers, None for four times the tokens'. It also knows SigLIP2, which diffusers 0.42 can't build with
transformers 5."""

_DECODER_NAMES = (
    ("attention.attention.query", "attention.to_q"),
    ("attention.attention.key", "attention.to_k"),
    ("attention.attention.value", "attention.to_v"),
    ("attention.output.dense", "attention.to_out.0"),
)


def misfit(tokenizer: Tokenizer) -> str | None:
    """Why AutoencoderRAE can't hold a tokenizer; None if it can.

    It builds encoders of the published shapes alone, and computes the decoder's positions.
    """
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    if not (isinstance(encoder, RaeEncoder) and isinstance(decoder, RaeDecoder)):
        return "its networks are not those of the plugin rae"
    if not isinstance(bottleneck, RaeBottleneck) or not _same_statistics(bottleneck, decoder):
        return "encoder and decoder apply different statistics"
    own, other = encoder.config, decoder.config
    if own.family not in NATIVE:
        return f"diffusers can't build the encoder {own.family} with transformers 5"
    side, eps, hidden = NATIVE[own.family]
    expected = {
        "heads": own.width // HEAD_WIDTH,
        "hidden": hidden or 4 * own.width,
        "eps": eps,
        "positions": side // own.native_patch,
    }
    for key, value in expected.items():
        if getattr(own, key) != value:
            return f"its encoder has {key} = {getattr(own, key)}, the class builds {value}"
    if other.eps != 1e-12 or own.side != other.grid or own.width % HEAD_WIDTH:
        return "its decoder has another epsilon or grid than the class builds"
    if (own.image_mean, own.image_std) != (other.image_mean, other.image_std):
        return "encoder and decoder normalise pixels differently"
    computed = _positions(other.width, other.grid)
    if not torch.allclose(decoder.positions[0].detach().cpu().double(), computed, atol=1e-6, rtol=0):
        return "its decoder's stored positions are not those that the class computes"
    return None


def settings_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``config.json`` of AutoencoderRAE, statistics in it as diffusers has them."""
    assert isinstance(tokenizer.encoder, RaeEncoder) and isinstance(tokenizer.decoder, RaeDecoder)
    own: RaeEncoderConfig = tokenizer.encoder.config
    other: RaeDecoderConfig = tokenizer.decoder.config
    mean, std = _statistics(tokenizer)
    return {
        CLASS: "AutoencoderRAE",
        "encoder_type": own.family,
        "encoder_hidden_size": own.width,
        "encoder_patch_size": own.native_patch,
        "encoder_num_hidden_layers": own.depth,
        "encoder_input_size": own.input_size,
        "encoder_norm_mean": list(own.image_mean),
        "encoder_norm_std": list(own.image_std),
        "decoder_hidden_size": other.width,
        "decoder_num_hidden_layers": other.depth,
        "decoder_num_attention_heads": other.heads,
        "decoder_intermediate_size": other.hidden,
        "patch_size": own.patch,
        "image_size": own.patch * other.grid,
        "latents_mean": mean.tolist(),
        "latents_std": std.tolist(),
        "scaling_factor": 1.0,
    }


def weights_of(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Weights under diffusers' names, the encoder's as transformers 5 has them."""
    assert isinstance(tokenizer.encoder, RaeEncoder) and isinstance(tokenizer.decoder, RaeDecoder)
    config = tokenizer.encoder.config
    found = {}
    for name, tensor in encoder_tensors(tokenizer.encoder).items():
        own = current_name(f"encoder.{name.removeprefix('vit.')}", mae=config.family == "mae")
        found[own] = tensor
    if config.family == "dinov2":
        found["encoder.embeddings.mask_token"] = torch.zeros(1, config.width)
    for name, tensor in decoder_tensors(tokenizer.decoder).items():
        for old, new in _DECODER_NAMES:
            name = name.replace(old, new)
        if name != "decoder_pos_embed":
            found[f"decoder.{name}"] = tensor
    mean, std = _statistics(tokenizer)
    for key, values in (("mean", config.image_mean), ("std", config.image_std)):
        found[f"encoder_{key}"] = torch.tensor(values).view(1, 3, 1, 1)
    return {**found, "_latents_mean": mean, "_latents_std": std}


def _statistics(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Mean and the deviation that with diffusers' epsilon is that of the bottleneck."""
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, RaeBottleneck)
    if bottleneck.mean is None or bottleneck.var is None:
        return torch.zeros(1), torch.ones(1) - STD_EPS
    std = (bottleneck.var.double() + bottleneck.config.eps).sqrt() - STD_EPS
    return bottleneck.mean.detach().cpu(), std.float().cpu()


def _same_statistics(bottleneck: RaeBottleneck, decoder: RaeDecoder) -> bool:
    pairs = ((bottleneck.mean, decoder.mean), (bottleneck.var, decoder.var))
    for one, other in pairs:
        if (one is None) != (other is None) or (one is not None and not torch.equal(one, other)):  # type: ignore[arg-type]
            return False
    return bottleneck.config.eps == decoder.config.latent_eps


def _positions(width: int, grid: int) -> Tensor:
    """Positions (1 + grid^2, width) float64 that AutoencoderRAE computes for its decoder."""
    embeddings = importlib.import_module("diffusers.models.embeddings")
    found: Tensor = embeddings.get_2d_sincos_pos_embed(
        width, grid, cls_token=True, extra_tokens=1, output_type="pt"
    )
    return found.float().double()
