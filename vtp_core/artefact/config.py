"""``config.json`` of an artefact: what is needed to rebuild the tokenizer. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.config import Table, first_problem
from vtp_core.errors import CheckpointError

FORMAT_VERSION = 1
CONFIG_BYTES = 1_000_000
"""Largest ``config.json`` that is read."""
EXPORTED_BY = "_vtp_version"
"""Key of a ``config.json`` in another project's layout that was written here: the version that wrote it."""
WHOLE = "artefact"
"""Key of one that holds all of our own: what a library of another project writes of our classes."""
EXPORT_BYTES = 64_000_000
"""Largest one in which it is looked for: AutoencoderRAE's has statistics of every channel and position."""

Names = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_Side = Annotated[int, Field(gt=0, le=65536)]


class Head(Table):
    """The modules that one objective exports."""

    objective: dict[str, Any]
    """The objective's table of the recipe: `use` and its own keys."""
    exports: dict[Names, Names]
    """Capability -> child module or direct parameter of the objective."""
    tokenizer: TokenizerName | None = None
    """Of a generator: the tokenizer whose latents it makes."""
    weights: Literal["student", "teacher"] = "student"
    """Whether these are the trained modules or their moving averages, where there are any."""


class ArtefactConfig(Table):
    """Component tables and weights' origin of a tokenizer, and the normalisation of pixels and latents."""

    format: Literal["vtp-tokenizer"] = "vtp-tokenizer"
    """Marks the folder as an artefact of this framework."""
    format_version: int = FORMAT_VERSION
    """Version of this file's layout."""
    vtp_version: str
    """Version of vtp-core that wrote it."""
    recipe: str = ""
    """Name of the recipe it was trained by."""
    step: int | None = None
    """Training steps done."""
    weights: Literal["student", "teacher"] = "student"
    """Whether the trained weights or their moving average were exported."""
    storage: Literal["full", "bfloat16", "int8"] = "full"
    """How the weights are stored: unchanged, all in bfloat16, or matrices in 8 bit with scales."""
    encoder: dict[str, Any]
    """The encoder's table of the recipe: `use` and its own keys."""
    bottleneck: dict[str, Any]
    """The bottleneck's table."""
    decoder: dict[str, Any] | None = None
    """The decoder's table; null if the recipe has none."""
    heads: dict[Names, Head] = {}
    """Objective -> the modules it exports, under ``heads/<objective>``."""
    image_size: _Side | tuple[_Side, _Side]
    """Side in pixels of the images that `preprocess` returns, or their height and width."""
    input_range: Literal["imagenet"] = "imagenet"
    """Range of the pixels that `encode` takes and `decode` returns."""
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per-channel mean of [0, 1] pixels; subtracted first."""
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per-channel standard deviation of [0, 1] pixels; the divisor."""
    latents_mean: tuple[Finite, ...] | None = None
    """Per-channel mean of the latents."""
    latents_std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Per-channel standard deviation of the latents."""
    scaling_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor on the normalised latents."""
    latents_stats_protocol: str | None = None
    """How mean and deviation were measured: data, images, crop."""
    license: str = ""
    """What is stated of the license of weights that another project published; empty: they are others."""
    fingerprint: str | None = None
    """Of what latents depend on: encoder, bottleneck, statistics. Null in files of older versions."""
    classes: tuple[str, ...] = ()
    """Names of the classes that a generator was trained on, by label."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.image_mean != (0.485, 0.456, 0.406) or self.image_std != (0.229, 0.224, 0.225):
            raise ValueError("image_mean and image_std must be ImageNet's in this format")
        if (self.latents_mean is None) != (self.latents_std is None):
            raise ValueError("latents_mean and latents_std come together")
        if self.latents_mean is not None and len(self.latents_mean) != len(self.latents_std or ()):
            raise ValueError("latents_mean and latents_std differ in length")
        return self

    def dump(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def read_json(path: Path, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """The object in a ``config.json`` of at most `limit` bytes.

    Raises:
        CheckpointError: Missing, too large or no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent}: no tokenizer here (no {path.name}); give a folder that a run wrote"
        )
    if path.stat().st_size > limit:
        raise CheckpointError(f"{path}: larger than {limit} bytes; not the config of a tokenizer")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}); the file is damaged") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: not an artefact of this framework (no format = vtp-tokenizer)")
    return raw


def is_artefact(folder: Path) -> bool:
    """Whether a folder is an artefact of this framework, of any version."""
    try:
        return read_json(folder / "config.json").get("format") == "vtp-tokenizer"
    except CheckpointError:
        return False


def is_export(path: Path) -> bool:
    """Whether a folder, or the one of a file, was written here in another project's layout."""
    folder = path if path.is_dir() else path.parent
    try:
        return not read_json(folder / "config.json", EXPORT_BYTES).keys().isdisjoint((EXPORTED_BY, WHOLE))
    except CheckpointError:
        return False


def read_config(folder: Path) -> ArtefactConfig:
    """The checked ``config.json`` of an artefact folder.

    Raises:
        CheckpointError: Missing, too large, no JSON, of another format or a newer version.
    """
    path = folder / "config.json"
    raw = read_json(path)
    if raw.get("format") != "vtp-tokenizer":
        raise CheckpointError(f"{path}: not an artefact of this framework (no format = vtp-tokenizer)")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version!r}, this installation reads {FORMAT_VERSION}; upgrade vtp-core"
        )
    try:
        return ArtefactConfig.model_validate(raw)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_problem(error)}; the file is damaged or edited") from error
