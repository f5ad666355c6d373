"""Reads a published TiTok: configuration, then names and shapes, then the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtp_core.errors import CheckpointError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.published import (
    config_of,
    read_tensors,
    read_tokenizer,
    shapes_of,
    weights_file,
)
from vtp_plugins.pretrained.settings import find_settings, read_settings
from vtp_plugins.titok.layout import MARKS, published_tensors
from vtp_plugins.titok.options import Networks, Settings, is_settings


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
    weights = weights_file(path, MARKS)
    if weights is None:
        return None
    settings = find_settings(weights.parent, is_settings)
    if not settings:
        raise CheckpointError(
            f"{weights}: a TiTok without its configuration; put the owner's config.json or YAML beside it"
        )
    return Files(weights, settings[0])


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the configuration is of another model.
    """
    settings = Settings.of_table(files.settings, read_settings(files.settings))
    state = read_tensors(files.weights)
    networks = Networks.of(files.weights, settings, shapes_of(state))
    return read_tokenizer(config_of(networks, settings.crop_size), files.weights, state, published_tensors)
