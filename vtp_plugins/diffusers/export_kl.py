"""A tokenizer of `cnn`, `kl` and `cnn` as settings and weights of diffusers' own AutoencoderKL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vtp_core.pixels import SIGNED, ValueRange, convert
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.cnn.config import GROUPS, CnnConfig
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.diffusers.layout import CLASS
from vtp_plugins.kl.bottleneck import KlBottleneck

SHAPE = ("channels", "multipliers", "residual_blocks", "attention")
"""Settings that AutoencoderKL has once for both networks."""

_LAYERS = {"shortcut": "conv_shortcut", "norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}


def fits(tokenizer: Tokenizer) -> bool:
    """Whether AutoencoderKL can hold the tokenizer: its three kinds, and one shape of both networks."""
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    return (
        isinstance(encoder, CnnEncoder)
        and isinstance(bottleneck, KlBottleneck)
        and isinstance(decoder, CnnDecoder)
        and all(getattr(encoder.config, key) == getattr(decoder.config, key) for key in SHAPE)
    )


def pads_alike(tokenizer: Tokenizer) -> bool:
    """Whether the zeros around an image are the same color in both: gray, the middle of [-1, 1].

    Elsewhere the range of the encoder's pixels is folded into its first convolution exactly.
    """
    assert isinstance(tokenizer.encoder, CnnEncoder)
    _, offset = _affine(SIGNED, tokenizer.encoder.config.value_range)
    return not bool(offset.any())


def settings_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``config.json`` of AutoencoderKL."""
    encoder, bottleneck, config = tokenizer.encoder, tokenizer.bottleneck, tokenizer.config
    assert isinstance(encoder, CnnEncoder) and config is not None
    levels, height_width = encoder.config.level_channels, sides(config.image_size)
    kinds = ["Attn" if 2**level in encoder.config.attention else "" for level in range(len(levels))]
    measured = config.latents_mean is not None
    return {
        CLASS: "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        "block_out_channels": list(levels),
        "layers_per_block": encoder.config.residual_blocks,
        "act_fn": "silu",
        "latent_channels": bottleneck.channels,
        "norm_num_groups": GROUPS,
        "sample_size": max(height_width),
        "scaling_factor": config.scaling_factor,
        "latents_mean": list(config.latents_mean or ()) if measured else None,
        "latents_std": list(config.latents_std or ()) if measured else None,
        "force_upcast": False,
        "use_quant_conv": encoder.width == 2 * bottleneck.channels,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    }


def weights_of(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Weights under diffusers' names, for images in [-1, 1].

    The ranges of pixels are folded into the first and the last convolution, and where the encoder has another
    width than mean and log variance, the bottleneck's projection into the convolution before it.
    """
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    assert isinstance(encoder, CnnEncoder) and isinstance(decoder, CnnDecoder)
    assert isinstance(bottleneck, KlBottleneck)
    names = {**_encoder_names(encoder.config), **_decoder_names(decoder.config)}
    own = {
        f"{part}.{name}": tensor.detach().double().cpu()
        for part, module in (("encoder", encoder), ("decoder", decoder))
        for name, tensor in module.state_dict().items()
    }
    _fold_input(own, encoder.config.value_range)
    _fold_output(own, decoder.value_range)
    moments = {
        name: tensor.detach().double().cpu() for name, tensor in bottleneck.moments.state_dict().items()
    }
    found: dict[str, Tensor] = {}
    if encoder.width == 2 * bottleneck.channels:
        found["quant_conv.weight"] = moments["weight"][:, :, None, None]
        found["quant_conv.bias"] = moments["bias"]
    else:
        kernel, bias = own["encoder.conv_out.weight"], own["encoder.conv_out.bias"]
        own["encoder.conv_out.weight"] = torch.einsum("oc,cihw->oihw", moments["weight"], kernel)
        own["encoder.conv_out.bias"] = moments["weight"] @ bias + moments["bias"]
    for name, tensor in own.items():
        module, _, kind = name.rpartition(".")
        target = names[module]
        # diffusers' attention has linear layers where latent diffusion has 1 x 1 convolutions.
        linear = ".attentions." in target and tensor.ndim == 4
        found[f"{target}.{kind}"] = tensor[:, :, 0, 0] if linear else tensor
    dtype = encoder.conv_in.weight.dtype
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def _encoder_names(config: CnnConfig) -> dict[str, str]:
    found = {"encoder.conv_in": "encoder.conv_in", "encoder.conv_out": "encoder.conv_out"}
    found["encoder.norm"] = "encoder.conv_norm_out"
    levels, each = len(config.multipliers), config.residual_blocks
    for number in range(levels * each):
        level, place = divmod(number, each)
        found |= dict(_block(f"encoder.block.{number}", f"encoder.down_blocks.{level}", place))
    for level in range(levels - 1):
        found[f"encoder.down.{level}.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
    for place in (0, 1):
        found |= dict(_block(f"encoder.block.{levels * each + place}", "encoder.mid_block", place))
    return found


def _decoder_names(config: CnnConfig) -> dict[str, str]:
    found = {"decoder.quant": "post_quant_conv", "decoder.norm": "decoder.conv_norm_out"}
    found |= {f"decoder.{name}": f"decoder.{name}" for name in ("conv_in", "conv_out")}
    levels, each = len(config.multipliers), config.residual_blocks + 1
    for place in (0, 1):
        found |= dict(_block(f"decoder.block.{place}", "decoder.mid_block", place))
    for number in range(levels * each):
        level, place = divmod(number, each)
        found |= dict(_block(f"decoder.block.{number + 2}", f"decoder.up_blocks.{level}", place))
    for level in range(levels - 1):
        found[f"decoder.up.{level}.conv"] = f"decoder.up_blocks.{level}.upsamplers.0.conv"
    return found


def _block(own: str, theirs: str, place: int) -> Iterator[tuple[str, str]]:
    """Names of a residual block and of the attention behind it, whether there is one or not."""
    for name in ("norm1", "conv1", "norm2", "conv2", "shortcut"):
        yield f"{own}.residual.{name}", f"{theirs}.resnets.{place}.{_LAYERS.get(name, name)}"
    for name in ("norm", "q", "k", "v"):
        yield f"{own}.attention.{name}", f"{theirs}.attentions.{place}.{_LAYERS[name]}"
    yield f"{own}.attention.proj", f"{theirs}.attentions.{place}.to_out.0"


def _affine(source: ValueRange, target: ValueRange) -> tuple[Tensor, Tensor]:
    """Scale and offset (3,) float64 that take pixels of one range to another."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    zero, one = (value.view(3) for value in convert(ends, source, target))
    # Rounding of 0.5 x 2 - 1 and its like is no offset.
    return one - zero, torch.where(zero.abs() < 1e-12, torch.zeros_like(zero), zero)


def _fold_input(own: dict[str, Tensor], value_range: ValueRange) -> None:
    scale, offset = _affine(SIGNED, value_range)
    kernel = own["encoder.conv_in.weight"]
    own["encoder.conv_in.bias"] = own["encoder.conv_in.bias"] + torch.einsum("oihw,i->o", kernel, offset)
    own["encoder.conv_in.weight"] = kernel * scale[None, :, None, None]


def _fold_output(own: dict[str, Tensor], value_range: ValueRange) -> None:
    scale, offset = _affine(value_range, SIGNED)
    own["decoder.conv_out.weight"] = own["decoder.conv_out.weight"] * scale[:, None, None, None]
    own["decoder.conv_out.bias"] = own["decoder.conv_out.bias"] * scale + offset
