"""Reads a published UniTok: settings, then names and shapes, then the tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

import vtp_core
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError
from vtp_core.parameters import Dims
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.published import (
    SUFFIXES,
    files_of,
    matched,
    read_settings,
    read_table,
    read_tensors,
    tensor_names,
)
from vtp_plugins.unitok.bottleneck import UniTokBottleneck
from vtp_plugins.unitok.decoder import UniTokDecoder
from vtp_plugins.unitok.encoder import UniTokEncoder
from vtp_plugins.unitok.layout import IGNORED, MARKS, of_images, published_tensors
from vtp_plugins.unitok.options import Networks, Settings

ENTRIES = ("trainer", "unitok")
ARGS = "args"
CONFIG = "config.json"
"""The owner's ``args`` as JSON, beside tensors in safetensors."""


@dataclass(frozen=True)
class Files:
    """The files of a model.

    Attributes:
        weights: The tensors.
        settings: ``args`` as JSON; None: the file of the tensors holds them.
    """

    weights: Path
    settings: Path | None


def find_files(path: Path) -> Files | None:
    """The published file, or the only one in a folder; None: there is none.

    Raises:
        CheckpointError: Safetensors without the settings, which alone say what they mean.
    """
    if path.is_file():
        candidates = [path] if path.suffix in SUFFIXES else []
    else:
        candidates = files_of(path, SUFFIXES) if path.is_dir() else []
    fitting = [file for file in candidates if tensor_names(file, ENTRIES) >= MARKS]
    if len(fitting) != 1:
        return None
    weights = fitting[0]
    if weights.suffix != ".safetensors":
        return Files(weights, None)
    if not (weights.parent / CONFIG).is_file():
        raise CheckpointError(f"{weights}: a UniTok without its settings; put its args as {CONFIG} beside it")
    return Files(weights, weights.parent / CONFIG)


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the settings are of
            another model.
    """
    if files.settings is None:
        settings = Settings.of_table(files.weights, read_table(files.weights, ARGS))
    else:
        settings = Settings.of_table(files.settings, read_settings(files.settings))
    state = of_images(read_tensors(files.weights, ENTRIES))
    networks = Networks.of(files.weights, settings, {name: tuple(t.shape) for name, t in state.items()})
    # On the meta device nothing is allocated for what the settings claim before names and shapes agree.
    with torch.device("meta"):
        expected = published_tensors(build(networks, settings.img_size))
    weights = matched(files.weights, state, expected, IGNORED)
    with torch.random.fork_rng(devices=[]):
        model = build(networks, settings.img_size).eval().requires_grad_(False)
    for name, tensor in published_tensors(model).items():
        tensor.copy_(weights[name])
    return model


def build(networks: Networks, image_size: int) -> Tokenizer:
    """The tokenizer of the tables, with fresh weights."""
    encoder = UniTokEncoder(networks.encoder)
    dims = Dims(width=encoder.width, patch=encoder.patch, depth=encoder.depth, has_cls=False)
    bottleneck = UniTokBottleneck(networks.bottleneck, dims)
    decoder = UniTokDecoder(networks.decoder, replace(dims, channels=bottleneck.channels))
    encoder.table, bottleneck.table = networks.encoder, networks.bottleneck
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        encoder=networks.encoder.model_dump(mode="json"),
        bottleneck=networks.bottleneck.model_dump(mode="json"),
        decoder=networks.decoder.model_dump(mode="json"),
        image_size=image_size,
    )
    return Tokenizer(encoder, bottleneck, decoder, config=config)
