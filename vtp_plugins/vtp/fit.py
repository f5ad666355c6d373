"""Whether a tokenizer fits the published layout, and the config that then describes it."""

from __future__ import annotations

import warnings

from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.clip.image import ImageHead
from vtp_plugins.clip.text import QuickGelu, TextBlock, TextTower
from vtp_plugins.clip.tokenizer import MERGES
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.vit.config import VitConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder
from vtp_plugins.vtp.config import VTPConfig
from vtp_plugins.vtp.model import VTPModel
from vtp_plugins.vtp.options import DECODER_MLP_RATIO, ROPE_BASE, UPSCALE
from vtp_plugins.vtp.statistics import STATISTICS

CLIP_EXPORTS = {"embed_image", "embed_text", "logit_scale"}


def config_of(tokenizer: Tokenizer) -> VTPConfig:
    """The published configuration of a tokenizer; warns of what the layout doesn't hold.

    Raises:
        UsageError: A part that the layout can't express, named with the setting.
    """
    if isinstance(tokenizer, VTPModel):
        return tokenizer.config
    if tokenizer.config is None:
        raise _misfit("tokenizer", "was put together by hand and has no image size; pass config=")
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    if not isinstance(tokenizer.config.image_size, int):
        raise _misfit("tokenizer", "is for rectangular images, the layout has one side")
    if not isinstance(encoder, VitEncoder):
        raise _misfit("encoder", f"is {_name(encoder)}, the layout has `vit`")
    if not encoder.has_cls:
        raise _misfit("encoder", "has no class token (cls_token = false)")
    if not isinstance(bottleneck, LinearBottleneck):
        raise _misfit("bottleneck", f"is {_name(bottleneck)}, the layout has `linear`")
    options = {
        "image_size": tokenizer.config.image_size,
        "vision_patch_size": encoder.patch,
        "vision_mlp_ratio": encoder.config.mlp_ratio,
        "vision_feature_bottleneck": bottleneck.channels,
        "rope_dtype": encoder.config.rope_dtype,
        **_vit("encoder", "vision", encoder.config),
        **_decoder(tokenizer),
        **_clip(tokenizer),
        **{name: getattr(tokenizer.config, name) for name in STATISTICS},
    }
    if isinstance(decoder, VitDecoder) and decoder.config.rope_dtype != encoder.config.rope_dtype:
        raise _misfit("decoder", f"has rope_dtype = {decoder.config.rope_dtype!r}, the encoder another")
    if encoder.config.rope_dtype == "float32":
        warnings.warn(
            'rope_dtype = "float32" is kept as a key of config.json, which `vtp_core.load` heeds; the '
            "published code turns positions in bfloat16, so its outputs will differ",
            stacklevel=3,
        )
    if left := sorted(set(tokenizer.exports) - CLIP_EXPORTS):
        warnings.warn(f"left out, as the layout has no place for it: {', '.join(left)}", stacklevel=3)
    return VTPConfig(**options)


def _vit(part: str, prefix: str, config: VitConfig) -> dict[str, object]:
    if config.rope_base != ROPE_BASE:
        raise _misfit(part, f"has rope_base = {config.rope_base:g}, the layout fixes {ROPE_BASE:g}")
    return {
        f"{prefix}_embed_dim": config.width,
        f"{prefix}_depth": config.depth,
        f"{prefix}_num_heads": config.heads,
        f"{prefix}_ffn_layer": config.ffn,
        f"{prefix}_norm_layer": config.norm,
        f"{prefix}_init_values": config.layer_scale,
        f"{prefix}_use_qk_norm": config.qk_norm,
    }


def _decoder(tokenizer: Tokenizer) -> dict[str, object]:
    decoder = tokenizer.decoder
    if decoder is None:
        return {"train_reconstruction": False}
    if not isinstance(decoder, VitDecoder):
        raise _misfit("decoder", f"is {_name(decoder)}, the layout has `vit`")
    if decoder.config.mlp_ratio != DECODER_MLP_RATIO and decoder.config.depth:
        ratio = decoder.config.mlp_ratio
        raise _misfit("decoder", f"has mlp_ratio = {ratio:g}, the layout fixes {DECODER_MLP_RATIO:g}")
    if decoder.upscale != UPSCALE:
        raise _misfit("decoder", f"makes {decoder.upscale} pixels a position, the layout fixes {UPSCALE}")
    if decoder.value_range != "imagenet":
        raise _misfit("decoder", f'has value_range = {decoder.value_range}, the layout fixes "imagenet"')
    return _vit("decoder", "decoder", decoder.config)


def _clip(tokenizer: Tokenizer) -> dict[str, object]:
    present = CLIP_EXPORTS & set(tokenizer.exports)
    if not present:
        return {"train_clip": False}
    if present != CLIP_EXPORTS:
        raise _misfit("contrastive head", f"lacks {sorted(CLIP_EXPORTS - present)[0]}; use objective `clip`")
    head, tower = tokenizer.exports["embed_image"], tokenizer.exports["embed_text"]
    if not isinstance(head, ImageHead) or not isinstance(tower, TextTower):
        raise _misfit(
            "contrastive head", f"is {_name(head)} and {_name(tower)}, the layout has those of `clip`"
        )
    context, width = tower.positions.shape
    if head.projection.out_features != width:
        raise _misfit(
            "contrastive head", f"has embedding = {head.projection.out_features}, not the text width {width}"
        )
    if not len(tower.blocks):
        raise _misfit("text tower", "has no blocks")
    if tower.tokenizer.merges != MERGES:
        raise _misfit("text tower", f"has merges = {tower.tokenizer.merges}, the layout CLIP's {MERGES}")
    block = tower.blocks[0]
    assert isinstance(block, TextBlock)
    projection = tower.projection
    return {
        "vision_bottleneck_ae_only": head.reads == "features",
        "vision_clip_feat": head.kind,
        "text_context_length": context,
        "text_vocab_size": tower.token_embedding.num_embeddings,
        "text_embed_dim": width,
        "text_num_heads": block.heads,
        "text_depth": len(tower.blocks),
        "text_mlp_ratio": tower.mlp_ratio,
        "text_ls_init_value": tower.layer_scale,
        "text_no_causal_mask": not block.causal,
        "text_pool_type": tower.pool,
        "text_proj_type": "none" if projection is None else "linear",
        "text_proj_bias": projection is not None and projection.bias is not None,
        "text_quick_gelu": isinstance(block.act, QuickGelu),
    }


def _name(part: object) -> str:
    return type(part).__name__


def _misfit(part: str, why: str) -> UsageError:
    return UsageError(f"format vtp: the {part} {why}; export our own format instead")
