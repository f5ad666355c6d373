"""Reads a folder of the format `transformers` without that package; checks sizes before taking memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig, read_json
from vtp_core.artefact.outline import outline
from vtp_core.artefact.weights import check_header, read_header, read_weights
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer

MODEL_TYPE = "vtp_tokenizer"
WEIGHTS = "model.safetensors"
PREFIX = "model."
"""What precedes our names of weights in the file."""


def is_transformers(folder: Path) -> bool:
    """Whether ``config.json`` says `MODEL_TYPE`."""
    try:
        return read_json(folder / "config.json").get("model_type") == MODEL_TYPE
    except CheckpointError:
        return False


def read_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, in evaluation mode on the CPU.

    Raises:
        CheckpointError: It is damaged, or config and weights are of different models.
    """
    return read_weights_of(artefact_of(read_json(folder / "config.json"), folder), folder / WEIGHTS)


def artefact_of(config: Mapping[str, Any], where: Path) -> ArtefactConfig:
    """The artefact's config in the ``config.json`` of a folder, without a fingerprint.

    The weights may have been trained further since it was written: `name_of` hashes them.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    try:
        found = ArtefactConfig.model_validate(config.get("artefact"))
    except ValidationError as error:
        why = first_problem(error)
        raise CheckpointError(f"{where / 'config.json'}: artefact: {why}; export it again") from error
    return found.model_copy(update={"fingerprint": None})


def read_weights_of(config: ArtefactConfig, path: Path) -> Tokenizer:
    """The tokenizer that `config` describes with the weights of a file, which must be exactly its own.

    Raises:
        CheckpointError: Damaged, or of another model.
    """
    plugins = load_plugins()
    shapes = {name: shape for name, (_, shape) in read_header(path).items()}
    planned = outline(config, plugins, shapes)
    check_header(path, {f"{PREFIX}{name}": value for name, value in planned.state_dict().items()})
    tokenizer = assemble(config, plugins)
    state = tokenizer.state_dict()
    for name, value in read_weights(path, {f"{PREFIX}{n}": v for n, v in state.items()}).items():
        state[name.removeprefix(PREFIX)].copy_(value)
    return tokenizer
