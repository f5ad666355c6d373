"""Writes a tokenizer as a folder of diffusers, of the class that holds it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vtp_core
from vtp_core.artefact.config import EXPORTED_BY, is_export
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers import export_kl, export_rae
from vtp_plugins.diffusers.encoder import DiffusersEncoder
from vtp_plugins.diffusers.layout import CLASS
from vtp_plugins.diffusers.network import library
from vtp_plugins.diffusers.reader import tensors_by_name
from vtp_plugins.diffusers.weights import STEM
from vtp_plugins.rae.encoder import RaeEncoder


def write_model(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes ``config.json`` and weights.

    Args:
        tokenizer: One whose parts are diffusers' goes back into their class; `cnn`, `kl` and `cnn` go into
            AutoencoderKL, `rae` into AutoencoderRAE where it fits; any other with a decoder goes into
            AutoencoderVTP.
        folder: Where to; one that this function wrote is replaced, no other folder of diffusers.

    Raises:
        UsageError: It has no decoder or no config, or `folder` holds something else.
    """
    if tokenizer.decoder is None or tokenizer.config is None:
        lacks = "decoder" if tokenizer.decoder is None else "config"
        raise UsageError(f"format diffusers: the tokenizer has no {lacks}, which its classes need")
    if tokenizer.exports:
        left = ", ".join(sorted(tokenizer.exports))
        warnings.warn(f"left out, as the format has no place for it: {left}", stacklevel=3)
    settings, weights = _contents(tokenizer)
    kept = {key: value for key, value in settings.items() if value is not None}
    versions = {
        "_diffusers_version": library("format diffusers").__version__,
        EXPORTED_BY: vtp_core.__version__,
    }
    text = json.dumps({**kept, **versions}, indent=2)
    names = (f"{STEM}.safetensors", "config.json")

    def fill(new: Path) -> None:
        write_weights(new / names[0], weights)
        (new / names[1]).write_text(text + "\n", encoding="utf-8")

    replace_folder(folder, fill, is_export, names)


def _contents(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights under diffusers' names."""
    parts = (tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder)
    models = [getattr(getattr(part, "config", None), "model", None) for part in parts]
    if isinstance(tokenizer.encoder, DiffusersEncoder) and models[0] == models[1] == models[2]:
        return _theirs(tokenizer, tokenizer.encoder)
    if export_kl.fits(tokenizer):
        if not export_kl.pads_alike(tokenizer):
            warnings.warn(
                "the encoder's zeros around an image are ImageNet's mean color, AutoencoderKL's are gray: "
                "latents at the border differ a little, decoded images do not. Exact are an encoder with "
                "value_range = [-1, 1], and vtp_plugins.diffusers.AutoencoderVTP.from_tokenizer",
                stacklevel=4,
            )
        return export_kl.settings_of(tokenizer), export_kl.weights_of(tokenizer)
    if isinstance(tokenizer.encoder, RaeEncoder):
        if (reason := export_rae.misfit(tokenizer)) is None:
            return export_rae.settings_of(tokenizer), export_rae.weights_of(tokenizer)
        warnings.warn(f"written as AutoencoderVTP, AutoencoderRAE can't hold it: {reason}", stacklevel=4)
    from vtp_plugins.diffusers.model import AutoencoderVTP

    model = AutoencoderVTP.from_tokenizer(tokenizer)
    settings = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {CLASS: "AutoencoderVTP", **settings}, dict(model.state_dict())


def _theirs(tokenizer: Tokenizer, encoder: DiffusersEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A tokenizer that was read from diffusers, or trained from there on."""
    config, layout = tokenizer.config, encoder.layout
    assert config is not None
    settings, weights = dict(encoder.config.model), tensors_by_name(tokenizer)
    found = {name: tensors[0] for name, tensors in weights.items()}
    if layout.name == "AutoencoderRAE" and encoder.config.statistics_shape:
        settings |= {f"latents_{name}": found[f"_latents_{name}"].tolist() for name in ("mean", "std")}
    if layout.statistics is None:
        if config.latents_mean is None or config.latents_std is None:
            raise UsageError(
                f"format diffusers: {layout.name} holds statistics of latents; measure them first"
            )
        eps = float(settings.get("batch_norm_eps", 1e-4))
        found["bn.running_mean"] = torch.tensor(config.latents_mean)
        found["bn.running_var"] = (
            torch.tensor(config.latents_std, dtype=torch.float64).square().sub(eps).float()
        )
        found["bn.num_batches_tracked"] = torch.tensor(0)
        return settings, found
    own = (config.latents_mean, config.latents_std, config.scaling_factor)
    if own[0] is not None and own != (*layout.statistics, layout.factor):
        if layout.name != "AutoencoderKL":
            warnings.warn(f"statistics of the latents are left out: {layout.name} has no place", stacklevel=5)
            return settings, found
        measured = {"latents_mean": list(own[0]), "latents_std": list(own[1] or ()), "shift_factor": None}
        settings |= {**measured, "scaling_factor": config.scaling_factor}
    return settings, found
