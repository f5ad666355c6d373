"""Reads a published folder: config first, then names and shapes, then the tensors."""

from __future__ import annotations

import re
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from vtp_core.artefact.config import read_json
from vtp_core.artefact.weights import read_weights
from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.vtp.config import VTPConfig
from vtp_plugins.vtp.layout import PERIODS, published_tensors
from vtp_plugins.vtp.options import ROPE_BASE, RopeDtype

if TYPE_CHECKING:
    from vtp_plugins.vtp.model import VTPModel

WEIGHTS = "model.safetensors"
LICENSE = (
    "of the published weights: modified MIT: products of a certain size must show the name (MiniMax-AI/VTP)"
)
_Model = TypeVar("_Model", bound="VTPModel")


def is_published(folder: Path) -> bool:
    """Whether the folder's ``config.json`` says ``model_type`` vtp."""
    try:
        return read_json(folder / "config.json").get("model_type") == "vtp"
    except CheckpointError:
        return False


def read_model(kind: type[_Model], folder: str | Path, rope_dtype: RopeDtype | None = None) -> _Model:
    """The model of a folder; see `VTPModel.from_pretrained`."""
    folder = _local(folder)
    config = VTPConfig.from_pretrained(folder)
    if rope_dtype is not None:
        config = config.with_rope_dtype(rope_dtype)
    # On the meta device nothing is allocated for what a config claims before the weights' names and shapes
    # agree with it, and no initial values are drawn.
    with torch.device("meta"):
        model = kind(config)
    scalar = not config.nonscalar_logit_scale
    weights = read_weights(folder / WEIGHTS, published_tensors(model, scalar=scalar))
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for name, tensor in published_tensors(model, scalar=scalar).items():
        if name in PERIODS and config.rope_dtype == "float32":
            if not torch.allclose(weights[name].float(), tensor.float(), rtol=0.02, atol=0):
                raise CheckpointError(
                    f"{folder / WEIGHTS}: {name} are not those of base {ROPE_BASE:g}, which the float32 "
                    "option assumes; load with bfloat16 positions"
                )
            model.periods[name] = weights[name]
        else:
            tensor.copy_(weights[name])
    return model


def _local(folder: str | Path) -> Path:
    """The folder, downloaded if it is no folder but reads like the name of a Hub repository."""
    path = Path(expanduser(folder))
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(folder)):
        raise UsageError(f"{folder}: no such folder; give one with config.json and {WEIGHTS}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=["config.json", WEIGHTS]))
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise UsageError(
            f"{folder}: no such folder, and the Hub repository could not be downloaded ({reason}); download "
            "it elsewhere"
        ) from error
