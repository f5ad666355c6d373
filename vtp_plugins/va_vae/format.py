"""The `va_vae` format: the checkpoint of LightningDiT's tokenizer, alone or in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import vtp_core
from vtp_core.artefact.config import EXPORTED_BY, is_export
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.va_vae.config import SIGNED, Networks
from vtp_plugins.va_vae.layout import published_tensors
from vtp_plugins.va_vae.reader import STATISTICS, find_files, read_model

WEIGHTS = "model.safetensors"


class VaVaeFormat:
    """Reads a VA-VAE as `cnn` encoder and decoder with a `kl` bottleneck, and writes such tokenizers."""

    holds_statistics = True
    license = "of the published weights: MIT (hustvl/LightningDiT)"

    def matches(self, folder: Path) -> bool:
        """Whether it is a checkpoint with these names, or a folder with exactly one."""
        try:
            return find_files(folder) is not None
        except (CheckpointError, OSError):
            return False

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer, with the statistics of ``latents_stats.pt`` beside the checkpoint, if it is there.

        Raises:
            CheckpointError: A tensor is missing, foreign or misshapen, or configuration and
                tensors are of different models.
        """
        files = find_files(folder)
        if files is None:
            raise CheckpointError(f"{folder}: not a VA-VAE: one checkpoint with encoder, decoder, quant_conv")
        return read_model(files)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes the owner's names: ``config.json``, ``model.safetensors``, ``latents_stats.safetensors``.

        Raises:
            UsageError: A part that the layout can't hold, named; or `folder` holds something else.
        """
        networks, side = _networks(model)
        config = model.config
        assert config is not None
        table = networks.ddconfig(side).model_dump(mode="json")
        data = {"latent_norm": config.latents_mean is not None, "latent_multiplier": config.scaling_factor}
        settings = {
            "ckpt_path": WEIGHTS,
            "model": {
                "target": "ldm.models.autoencoder.AutoencoderKL",
                "params": {"embed_dim": networks.bottleneck.channels, "ddconfig": table},
            },
            "data": data,
            EXPORTED_BY: vtp_core.__version__,
        }

        def fill(new: Path) -> None:
            write_weights(new / WEIGHTS, published_tensors(model))
            if config.latents_mean is not None and config.latents_std is not None:
                values = {"mean": config.latents_mean, "std": config.latents_std}
                tensors = {name: torch.tensor(value).view(1, -1, 1, 1) for name, value in values.items()}
                write_weights(new / STATISTICS[0], tensors)
            (new / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

        replace_folder(folder, fill, is_export, (WEIGHTS, STATISTICS[0], "config.json"))


def _networks(model: Tokenizer) -> tuple[Networks, int]:
    """Tables and image side of a tokenizer that fits."""
    encoder, bottleneck, decoder, config = model.encoder, model.bottleneck, model.decoder, model.config
    fits = isinstance(encoder, CnnEncoder) and isinstance(bottleneck, KlBottleneck)
    if not fits or not isinstance(decoder, CnnDecoder) or config is None:
        raise _misfit("it has other parts than `cnn`, `kl` and `cnn`")
    assert isinstance(encoder, CnnEncoder)
    one, other = encoder.config, decoder.config
    for key in ("channels", "multipliers", "residual_blocks", "attention"):
        if getattr(one, key) != getattr(other, key):
            raise _misfit(f"{key} of encoder and decoder differ")
    if one.multipliers[0] != 1:
        raise _misfit("its first multiplier is not 1")
    if tuple(one.value_range) != SIGNED or tuple(other.value_range) != SIGNED:
        raise _misfit("value_range of encoder and decoder is not [-1, 1]")
    if one.width != 2 * bottleneck.channels:
        raise _misfit(f"the encoder's width is not twice the latent's {bottleneck.channels} channels")
    height, width = sides(config.image_size)
    if height != width:
        raise _misfit("its images are not square")
    return Networks(encoder=one, bottleneck=KlConfig(channels=bottleneck.channels), decoder=other), height


def _misfit(why: str) -> UsageError:
    return UsageError(f"format va_vae: {why}; export our own format instead")
