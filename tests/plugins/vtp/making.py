"""Random published models in folders, written without the plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.plugins.vtp.published import shapes

SMALL: dict[str, Any] = {
    "model_type": "vtp",
    "image_size": 32,
    "vision_patch_size": 16,
    "vision_embed_dim": 24,
    "vision_depth": 2,
    "vision_num_heads": 2,
    "vision_mlp_ratio": 4.0,
    "vision_ffn_layer": "swiglu",
    "vision_norm_layer": "rmsnorm",
    "vision_init_values": None,
    "vision_use_qk_norm": False,
    "vision_feature_bottleneck": 6,
    "vision_bottleneck_ae_only": True,
    "vision_clip_feat": "cls",
    "text_context_length": 7,
    "text_vocab_size": 40,
    "text_embed_dim": 12,
    "text_num_heads": 2,
    "text_depth": 2,
    "text_mlp_ratio": 4.0,
    "text_ls_init_value": None,
    "text_embed_cls": False,
    "text_pad_id": 0,
    "text_no_causal_mask": False,
    "text_pool_type": "argmax",
    "text_proj_type": "linear",
    "text_proj_bias": False,
    "text_output_tokens": False,
    "text_quick_gelu": False,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 1,
    "decoder_ffn_layer": "swiglu",
    "decoder_norm_layer": "layernorm",
    "decoder_init_values": None,
    "decoder_use_qk_norm": False,
    "init_logit_scale": None,
    "init_logit_bias": None,
    "nonscalar_logit_scale": False,
    "train_clip": True,
    "train_reconstruction": True,
}
"""Every key of the published config, for a tiny model."""

L: dict[str, Any] = {
    **SMALL,
    "image_size": 256,
    "vision_embed_dim": 1024,
    "vision_depth": 24,
    "vision_num_heads": 16,
    "vision_feature_bottleneck": 64,
    "text_context_length": 77,
    "text_vocab_size": 49408,
    "text_embed_dim": 768,
    "text_num_heads": 12,
    "text_depth": 12,
    "decoder_embed_dim": 1024,
    "decoder_depth": 24,
    "decoder_num_heads": 16,
}
"""The options in the ``config.json`` of VTP-Large-f16d64."""

SIZES = {
    "vision_embed_dim": ("encoder", "width", 32),
    "vision_depth": ("encoder", "depth", 2),
    "vision_num_heads": ("encoder", "heads", 2),
    "decoder_embed_dim": ("decoder", "width", 32),
    "decoder_depth": ("decoder", "depth", 2),
    "decoder_num_heads": ("decoder", "heads", 2),
    "text_embed_dim": ("objectives.clip", "width", 32),
    "text_depth": ("objectives.clip", "depth", 1),
    "text_num_heads": ("objectives.clip", "heads", 2),
    "text_context_length": ("objectives.clip", "context", 16),
}
"""Published key -> table, key and value by which `TINY_L`, and ``smoke/vtp_l``, are smaller than L."""

TINY_L: dict[str, Any] = {**L, **{name: small for name, (_, _, small) in SIZES.items()}}
"""Every option as L has it, at the sizes of ``smoke/vtp_l``."""


def draw(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """A random state dict of a published model, large enough for every path to matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(config).items():
        if name.endswith("periods"):
            count = shape[0]
            exponents = 2 * torch.arange(count, dtype=torch.bfloat16) / (2 * count)
            state[name] = torch.tensor(100.0, dtype=torch.bfloat16) ** exponents
            continue
        drawn = torch.randn(shape, generator=generator)
        fan = shape[-1] if len(shape) == 2 else 3 * shape[-1] ** 2 if len(shape) == 4 else 4
        gain = ".norm" in name or "ln_" in name or "gamma" in name or "_norm." in name
        state[name] = 1 + 0.2 * drawn if gain and name.endswith(("weight", "gamma")) else drawn * fan**-0.5
    return state


def write(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """A published folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    save_file(dict(state), folder / "model.safetensors")
    return folder


def inputs(config: Mapping[str, Any], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images of an odd grid (2, 3, 3 p, 2 p) and captions' ids (3, T)."""
    generator = torch.Generator().manual_seed(seed)
    patch, context = config["vision_patch_size"], config["text_context_length"] + config["text_embed_cls"]
    images = torch.randn(2, 3, 3 * patch, 2 * patch, generator=generator)
    ids = torch.randint(1, config["text_vocab_size"] - 1, (3, context), generator=generator)
    for row, end in enumerate((context - 1, 2, 0)):
        ids[row, end] = config["text_vocab_size"] - 1
        ids[row, end + 1 :] = 0
    return images, ids
