"""Reads a published TiTok: configuration, then names and shapes, then the tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

import vtp_core
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError
from vtp_core.parameters import Dims
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.pretrained.published import (
    SUFFIXES,
    files_of,
    matched,
    read_settings,
    read_tensors,
    tensor_names,
)
from vtp_plugins.titok.decoder import TiTokDecoder
from vtp_plugins.titok.encoder import TiTokEncoder
from vtp_plugins.titok.layout import MARKS, published_tensors
from vtp_plugins.titok.options import Networks, Settings, is_settings
from vtp_plugins.vq.bottleneck import VqBottleneck


@dataclass(frozen=True)
class Files:
    """The files of a model.

    Attributes:
        weights: The tensors.
        settings: The owner's configuration.
    """

    weights: Path
    settings: Path


def find_files(path: Path) -> Files | None:
    """The files of a TiTok in a folder, or of its file of weights; None: there is none.

    Raises:
        CheckpointError: Weights without a configuration, which alone says what they mean.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        candidates = [path] if path.suffix in SUFFIXES else []
    else:
        candidates = files_of(folder, SUFFIXES) if folder.is_dir() else []
    fitting = [file for file in candidates if tensor_names(file) >= MARKS]
    if len(fitting) != 1:
        return None
    settings = _settings(folder)
    if settings is None:
        raise CheckpointError(
            f"{fitting[0]}: a TiTok without its configuration; put the owner's config.json or YAML beside it"
        )
    return Files(fitting[0], settings)


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the configuration is of
            another model.
    """
    settings = Settings.of_table(files.settings, read_settings(files.settings))
    state = read_tensors(files.weights)
    networks = Networks.of(files.weights, settings, {name: tuple(t.shape) for name, t in state.items()})
    # On the meta device nothing is allocated for what a config claims before names and shapes agree.
    with torch.device("meta"):
        expected = published_tensors(build(networks))
    weights = matched(files.weights, state, expected)
    with torch.random.fork_rng(devices=[]):
        model = build(networks).eval().requires_grad_(False)
    for name, tensor in published_tensors(model).items():
        tensor.copy_(weights[name])
    return model


def build(networks: Networks) -> Tokenizer:
    """The tokenizer of the tables, with fresh weights."""
    encoder = TiTokEncoder(networks.encoder)
    dims = Dims(width=encoder.width, patch=encoder.patch, depth=encoder.depth, has_cls=False)
    table = networks.bottleneck
    bottleneck = KlBottleneck(table, dims) if isinstance(table, KlConfig) else VqBottleneck(table, dims)
    decoder = TiTokDecoder(networks.decoder, replace(dims, channels=bottleneck.channels))
    encoder.table, bottleneck.table = networks.encoder, table
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        encoder=networks.encoder.model_dump(mode="json"),
        bottleneck=table.model_dump(mode="json"),
        decoder=networks.decoder.model_dump(mode="json"),
        image_size=networks.encoder.size,
    )
    return Tokenizer(encoder, bottleneck, decoder, config=config)


def _settings(folder: Path) -> Path | None:
    for file in files_of(folder, (".json", ".yaml", ".yml")):
        try:
            if is_settings(read_settings(file)):
                return file
        except CheckpointError:
            continue
    return None
