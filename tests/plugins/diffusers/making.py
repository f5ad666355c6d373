"""Tiny models of diffusers' classes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

TWO = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
PAIR = {"encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16)}


def kl(**settings: Any) -> Any:
    return diffusers.AutoencoderKL(**{**TWO, "latent_channels": 4, **settings})


def flux2() -> Any:
    return diffusers.AutoencoderKLFlux2(**TWO, latent_channels=4, layers_per_block=1)


def vq() -> Any:
    """Its norms that see the codes have 32 groups, and codes as wide as the decoder's input."""
    sizes = {**TWO, "block_out_channels": (32, 32), "norm_num_groups": 32}
    return diffusers.VQModel(**sizes, latent_channels=4, num_vq_embeddings=16, norm_type="spatial")


def dc() -> Any:
    blocks, multiscales = ("ResBlock", "EfficientViTBlock"), ((), (5,))
    return diffusers.AutoencoderDC(
        **PAIR,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        scaling_factor=0.41407,
    )


def tiny() -> Any:
    sizes = dict.fromkeys(PAIR, (8, 8))
    return diffusers.AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))


def rae(kind: str = "dinov2", **settings: Any) -> Any:
    sizes = {
        "encoder_type": kind,
        "encoder_hidden_size": 64,
        "encoder_num_hidden_layers": 1,
        "encoder_patch_size": 14,
        "encoder_input_size": 28,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "patch_size": 4,
        "latents_mean": torch.randn(64, 2, 2),
        "latents_std": torch.rand(64, 2, 2) + 0.5,
    }
    return diffusers.AutoencoderRAE(**{**sizes, **settings})


def drawn(make: Callable[[], Any]) -> Any:
    """The model in evaluation mode, with norms, biases and statistics that are not 0 and 1."""
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and not name.startswith("encoder.embeddings"):
            weight.add_(0.1 * torch.randn_like(weight))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model
