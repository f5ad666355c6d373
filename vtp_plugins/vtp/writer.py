"""Writes a published folder: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.vtp.config import VTPConfig
from vtp_plugins.vtp.layout import PERIODS, published_tensors
from vtp_plugins.vtp.reader import WEIGHTS, is_published


def write_model(model: Tokenizer, config: VTPConfig, folder: Path, periods: Mapping[str, Tensor]) -> None:
    """Writes a tokenizer of the parts `vit`, `linear`, `vit` and `clip`.

    Args:
        model: A tokenizer that `config` describes.
        config: Its published configuration.
        folder: Where to; a folder of this layout with no other files is replaced.
        periods: Published name -> rotary periods that replace the computed ones.

    Raises:
        UsageError: `folder` holds something else.
    """
    tensors = published_tensors(model, scalar=not config.nonscalar_logit_scale) | dict(periods)
    tensors |= {name: tensors[name].to(torch.bfloat16) for name in PERIODS if name in tensors}
    dtype = str(model.encoder.get_parameter("mask_token").dtype).removeprefix("torch.")

    def fill(new: Path) -> None:
        write_weights(new / WEIGHTS, tensors)
        (new / "config.json").write_text(config.published(dtype), encoding="utf-8")

    replace_folder(folder, fill, is_published, (WEIGHTS, "config.json"))
