"""``manifest.json`` of a folder of latents: which tokenizer made them of which images. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.atomic import write_text
from vtp_core.config import Table, first_problem
from vtp_core.errors import DataError
from vtp_core.view import Size

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
MANIFEST_BYTES = 64_000_000
"""Largest ``manifest.json`` that is read. Earlier versions listed every sample that could not be read."""
MOST_SHARDS = 100_000
"""Most files of a folder; their names have five digits."""
LISTED = 100
"""Samples that `LatentManifest.left_out` names a reason; the files name all."""
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_DECIDING = (
    "tokenizer", "source", "samples", "images", "image_size", "flips", "shard_samples", "layout", "fields",
    "parts", "numerics",
)  # fmt: skip
_Count = Annotated[int, Field(ge=0)]


class LatentManifest(Table):
    """What a folder of latents says of itself."""

    format: Literal["vtp-latents"] = "vtp-latents"
    """Marks the folder."""
    format_version: Literal[1] = 1
    """Version of this file's layout."""
    vtp_version: str
    """Version of vtp-core that wrote it."""
    tokenizer: TokenizerName
    """What made the latents."""
    source: str
    """The images, as protocols name them."""
    samples: _Count
    """Samples of that source."""
    image_size: Size
    """Side of the images in pixels, or height and width, after the centre crop of evaluation."""
    flips: bool
    """Whether the latents of the mirror images are there too."""
    shard_samples: Annotated[int, Field(gt=0)]
    """Samples of the source a file: file k has those from k times as many on."""
    classes: tuple[str, ...] = ()
    """Class names by label."""
    fields: tuple[str, ...] = ("latent",)
    """Fields of each sample: latent, label, text."""
    layout: Literal["safetensors", "tar"] = "safetensors"
    """Files: LightningDiT's safetensors, or tar shards."""
    parts: tuple[Literal["logvar", "indices"], ...] = ()
    """What each sample has beside its latent: log variances (variational), codes (discrete)."""
    images: str = ""
    """Hash of the names of some samples: whether the images are still the same. Empty: unknown."""
    numerics: str = ""
    """What rounding depends on: dtype, device, images at a time, preparation. Empty: unknown."""
    complete: bool = False
    """Whether all samples are encoded; what follows is known only then."""
    encoded: _Count = 0
    """Samples that could be encoded."""
    left_out: dict[str, tuple[str, ...]] = {}
    """Reason -> keys of samples that could not be read: the first `LISTED`; each file names its own."""
    left_out_counts: dict[str, _Count] = {}
    """Reason -> number of these samples. Empty in files of older versions, which list all."""
    latents_mean: tuple[_Finite, ...] = ()
    """Mean of the latents by channel, mirror images included."""
    latents_std: tuple[_Above0, ...] = ()
    """Standard deviation by channel."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.latents_mean) != len(self.latents_std):
            raise ValueError("latents_mean and latents_std differ in length")
        if (count := shard_count(self.samples, self.shard_samples)) > MOST_SHARDS:
            raise ValueError(f"{count} files, and a folder has {MOST_SHARDS} at most")
        return self

    @property
    def shards(self) -> Sequence[str]:
        """Names of the files."""
        suffix = "tar" if self.layout == "tar" else "safetensors"
        return [f"latents-{k:05d}.{suffix}" for k in range(shard_count(self.samples, self.shard_samples))]

    def positions(self, shard: int) -> range:
        """Samples of the source that a file is made of."""
        start = shard * self.shard_samples
        return range(start, min(start + self.shard_samples, self.samples))

    def difference(self, other: LatentManifest) -> str | None:
        """The first thing by which the files of two folders would differ, in words, or None."""
        for name in _DECIDING:
            if (old := getattr(self, name)) != (new := getattr(other, name)):
                return f"{name} was {_quoted(old)}, and is {_quoted(new)} now"
        return None

    def left_out_numbers(self) -> Mapping[str, int]:
        """Reason -> number of samples that could not be read."""
        return self.left_out_counts or {reason: len(keys) for reason, keys in self.left_out.items()}

    def write(self, folder: Path) -> None:
        """Replaces the file."""
        write_text(folder / MANIFEST, self.model_dump_json(indent=2) + "\n")


def shard_count(samples: int, shard_samples: int) -> int:
    """Files of so many samples."""
    return -(-samples // shard_samples)


def read_manifest(folder: Path) -> LatentManifest | None:
    """The manifest of a folder; None of a folder without one.

    Raises:
        DataError: It is damaged, of another format or of a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        if path.stat().st_size > MANIFEST_BYTES:
            raise ValueError(f"larger than {MANIFEST_BYTES} bytes")
        return LatentManifest.model_validate(_parsed(path))
    except (ValueError, OSError) as error:  # a ValidationError is a ValueError
        why = first_problem(error)
        raise DataError(f"{path}: no manifest of latents that this version reads ({why})") from error


def _quoted(value: object) -> str:
    """The value in a sentence."""
    return f'"{value}"' if isinstance(value, str) and " " in value else str(value)


def _parsed(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
