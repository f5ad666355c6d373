"""Reads a published VA-VAE: sizes from shapes, then the tensors, then the statistics of the latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

import vtp_core
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError
from vtp_core.parameters import Dims
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.pretrained.published import (
    SUFFIXES,
    files_of,
    matched,
    read_settings,
    read_tensors,
    tensor_names,
)
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
    if path.is_file():
        known = path.suffix in SUFFIXES and tensor_names(path, ENTRIES) >= MARKS
        return Files(path.parent, path, _settings(path.parent)) if known else None
    if not path.is_dir():
        return None
    settings = _settings(path)
    if settings is not None:
        named = _heeded(settings).ckpt_path
        if named is not None and (path / Path(named).name).is_file():
            return Files(path, path / Path(named).name, settings)
    candidates = [file for file in files_of(path, SUFFIXES) if file.name not in STATISTICS]
    fitting = [file for file in candidates if tensor_names(file, ENTRIES) >= MARKS]
    return Files(path, fitting[0], settings) if len(fitting) == 1 else None


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the configuration is of
            another model.
    """
    state = read_tensors(files.weights, ENTRIES)
    networks = Networks.of_shapes(files.weights, {name: tuple(t.shape) for name, t in state.items()})
    settings = Settings() if files.settings is None else _heeded(files.settings)
    settings.check(files.settings or files.weights, networks)
    # On the meta device nothing is allocated before names and shapes agree.
    with torch.device("meta"):
        model = build(networks)
    weights = matched(files.weights, state, published_tensors(model), IGNORED)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for name, tensor in published_tensors(model).items():
        tensor.copy_(weights[name])
    resolution = RESOLUTION if settings.ddconfig is None else settings.ddconfig.resolution
    model.config = _config(networks, resolution, files.folder, settings)
    return model


def build(networks: Networks) -> Tokenizer:
    """The tokenizer of the tables, with fresh weights."""
    encoder = CnnEncoder(networks.encoder)
    dims = Dims(width=encoder.width, patch=encoder.patch, depth=encoder.depth, has_cls=False)
    bottleneck = KlBottleneck(networks.bottleneck, dims)
    decoder = CnnDecoder(networks.decoder, Dims(**{**vars(dims), "channels": bottleneck.channels}))
    encoder.table, bottleneck.table = networks.encoder, networks.bottleneck
    return Tokenizer(encoder, bottleneck, decoder)


def _config(networks: Networks, resolution: int, folder: Path, settings: Settings) -> ArtefactConfig:
    statistics = next((folder / name for name in STATISTICS if (folder / name).is_file()), None)
    numbers: dict[str, object] = {}
    if statistics is not None and settings.latent_norm:
        state = read_tensors(statistics)
        shape = torch.empty(1, networks.bottleneck.channels, 1, 1, device="meta")
        found = matched(statistics, state, {"mean": shape, "std": shape})
        numbers = {
            "latents_mean": tuple(found["mean"].flatten().tolist()),
            "latents_std": tuple(found["std"].flatten().tolist()),
            "scaling_factor": settings.latent_multiplier,
            "latents_stats_protocol": PROTOCOL,
        }
    try:
        return ArtefactConfig.model_validate(
            {
                "vtp_version": vtp_core.__version__,
                "encoder": networks.encoder.model_dump(mode="json"),
                "bottleneck": networks.bottleneck.model_dump(mode="json"),
                "decoder": networks.decoder.model_dump(mode="json"),
                "image_size": resolution,
                **numbers,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{statistics or folder}: {first['loc'][0]}: {first['msg']}") from error


def _settings(folder: Path) -> Path | None:
    for file in files_of(folder, (".json", ".yaml", ".yml")):
        try:
            if is_settings(read_settings(file)):
                return file
        except CheckpointError:
            continue
    return None


def _heeded(path: Path) -> Settings:
    return Settings.of_table(path, read_settings(path))
