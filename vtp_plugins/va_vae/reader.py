"""Reads a published VA-VAE: sizes from shapes, then the tensors, then the statistics of the latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.published import (
    config_of,
    matched,
    read_tensors,
    read_tokenizer,
    shapes_of,
    weights_file,
)
from vtp_plugins.pretrained.settings import find_settings, read_settings
from vtp_plugins.va_vae.config import RESOLUTION, Networks, Settings, is_settings
from vtp_plugins.va_vae.layout import IGNORED, MARKS, published_tensors

ENTRIES = ("state_dict",)
STATISTICS = ("latents_stats.safetensors", "latents_stats.pt")
"""Names of the file of the latents' statistics, beside the checkpoint."""
PROTOCOL = "latents_stats of the published files"


@dataclass(frozen=True)
class Files:
    """The files of a model.

    Attributes:
        folder: Where statistics are looked for.
        weights: The checkpoint.
        settings: The owner's configuration, if there is one.
    """

    folder: Path
    weights: Path
    settings: Path | None


def find_files(path: Path) -> Files | None:
    """The files of a VA-VAE in a folder, or the one of a checkpoint; None: it is none."""
    folder = path if path.is_dir() else path.parent
    settings = next(iter(find_settings(folder, is_settings)), None)
    if settings is not None and path.is_dir():
        named = _heeded(settings).ckpt_path
        if named is not None and (path / Path(named).name).is_file():
            return Files(folder, path / Path(named).name, settings)
    weights = weights_file(path, MARKS, ENTRIES, STATISTICS)
    return None if weights is None else Files(folder, weights, settings)


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the configuration is of another model.
    """
    state = read_tensors(files.weights, ENTRIES)
    networks = Networks.of_shapes(files.weights, shapes_of(state))
    settings = Settings() if files.settings is None else _heeded(files.settings)
    settings.check(files.settings or files.weights, networks)
    config = _config(networks, files.folder, settings)
    return read_tokenizer(config, files.weights, state, published_tensors, IGNORED)


def _config(networks: Networks, folder: Path, settings: Settings) -> ArtefactConfig:
    statistics = next((folder / name for name in STATISTICS if (folder / name).is_file()), None)
    numbers: dict[str, object] = {}
    if statistics is not None and settings.latent_norm:
        shape = torch.empty(1, networks.bottleneck.channels, 1, 1, device="meta")
        found = matched(statistics, read_tensors(statistics), {"mean": shape, "std": shape})
        numbers = {
            "latents_mean": tuple(found["mean"].flatten().tolist()),
            "latents_std": tuple(found["std"].flatten().tolist()),
            "scaling_factor": settings.latent_multiplier,
            "latents_stats_protocol": PROTOCOL,
        }
    resolution = RESOLUTION if settings.ddconfig is None else settings.ddconfig.resolution
    try:
        return config_of(networks, resolution, **numbers)
    except ValidationError as error:
        raise CheckpointError(f"{statistics or folder}: {first_problem(error)}") from error


def _heeded(path: Path) -> Settings:
    return Settings.of_table(path, read_settings(path))
