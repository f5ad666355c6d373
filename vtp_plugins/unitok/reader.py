"""Reads a published UniTok: settings, then names and shapes, then the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtp_core.errors import CheckpointError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.published import (
    config_of,
    read_table,
    read_tensors,
    read_tokenizer,
    shapes_of,
    weights_file,
)
from vtp_plugins.pretrained.settings import checked_table, read_settings
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
    weights = weights_file(path, MARKS, ENTRIES)
    if weights is None or weights.suffix != ".safetensors":
        return None if weights is None else Files(weights, None)
    if not (weights.parent / CONFIG).is_file():
        raise CheckpointError(f"{weights}: a UniTok without its settings; put its args as {CONFIG} beside it")
    return Files(weights, weights.parent / CONFIG)


def read_model(files: Files) -> Tokenizer:
    """The tokenizer of the files, in eval mode on the CPU.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen, or the settings are of another model.
    """
    raw = read_table(files.weights, ARGS) if files.settings is None else read_settings(files.settings)
    settings = checked_table(Settings, files.settings or files.weights, raw)
    state = of_images(read_tensors(files.weights, ENTRIES))
    networks = Networks.of(files.weights, settings, shapes_of(state))
    config = config_of(networks, settings.img_size)
    return read_tokenizer(config, files.weights, state, published_tensors, IGNORED)
