"""The source of latents in files: a folder of ours or of LightningDiT, or a file. Imports no torch."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.artefact.latent_manifest import MANIFEST, LatentManifest, read_manifest
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError
from vtp_core.latents.files import LatentFile, open_file


class StoredLatents:
    """The latents of a folder or file, in the order of the files' names.

    Args:
        path: The folder or file.
        flips: Whether latents of mirror images are used, where they are there.

    Attributes:
        fields: "latent", and "label" and "text" where every file has them.
        classes: Class names of the manifest.
        shards: The files.
        made_by: The tokenizer, or None where no file names it.

    Raises:
        DataError: Nothing is there, or files are damaged, incomplete or don't fit together.
    """

    def __init__(self, path: Path, *, flips: bool) -> None:
        self.path = path
        manifest = read_manifest(path) if path.is_dir() else None
        if manifest is not None and not manifest.complete:
            raise DataError(f"{path}: not all samples are encoded yet; repeat the command or resume the run")
        self.manifest: LatentManifest | None = manifest
        self.shards: Sequence[LatentFile] = [open_file(file) for file in _files(path, manifest)]
        first = self.shards[0]
        for shard in self.shards:
            if shard.shape != first.shape or shard.tokenizer != first.tokenizer:
                own, other = (each.tokenizer or "an unnamed tokenizer" for each in (shard, first))
                raise DataError(
                    f"{shard.path}: latents {shard.shape} of {own}, {first.path.name} has {first.shape} of "
                    f"{other}; keep one tokenizer's latents in a folder"
                )
        self._ends = numpy.cumsum([len(shard) for shard in self.shards]).tolist()
        if manifest is not None and len(manifest.latents_mean) not in (0, first.shape[0]):
            raise DataError(
                f"{path / MANIFEST}: latents_mean has {len(manifest.latents_mean)} values, the latents "
                f"{first.shape[0]} channels; it was edited"
            )
        fields = {"latent"}
        fields |= {"label"} if all(shard.labels is not None for shard in self.shards) else set()
        fields |= {"text"} if all(shard.has_texts for shard in self.shards) else set()
        self.fields = frozenset(fields)
        self.classes: Sequence[str] = () if manifest is None else manifest.classes
        self.made_by: TokenizerName | None = first.tokenizer
        self.versions = 2 if flips and all(shard.flips for shard in self.shards) else 1

    def __len__(self) -> int:
        count: int = self._ends[-1]
        return count

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """See `vtp_core.data.source.Source.read`."""
        return self.read_version(index, 0, fields)

    def read_version(self, index: int, version: int, fields: frozenset[str]) -> Sample:
        """The latent of the image (version 0) or of its mirror image (1)."""
        number = bisect.bisect_right(self._ends, index)
        shard, row = self.shards[number], index - (self._ends[number - 1] if number else 0)
        key = shard.key(row)
        latent = shard.latent(row, flipped=version == 1) if "latent" in fields else None
        if latent is not None and not numpy.isfinite(latent).all():
            raise BadSample(key, "latent is not finite", str(shard.path))
        return Sample(
            key=key,
            latent=latent,
            label=int(shard.labels[row]) if "label" in fields and shard.labels is not None else None,
            text=shard.text(row) if "text" in fields else None,
        )

    def statistics(self) -> tuple[Sequence[float], Sequence[float], str]:
        """See `vtp_core.data.source.LatentSource.statistics`; measured where no manifest has them."""
        if self.manifest is not None and self.manifest.latents_mean:
            mean, deviation = self.manifest.latents_mean, self.manifest.latents_std
        else:
            mean, deviation = measured(self.shards)
        flips = ", with mirror images" if all(shard.flips for shard in self.shards) else ""
        return mean, deviation, f"cached-latents-v1 (all positions, float64{flips}); {len(self)} latents"

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Reason -> keys of samples that could not be encoded."""
        return {} if self.manifest is None else all_left_out(self.shards)


def all_left_out(shards: Sequence[LatentFile]) -> dict[str, list[str]]:
    """Reason -> keys of samples that could not be read, of all files."""
    found: dict[str, list[str]] = {}
    for shard in shards:
        for reason, keys in shard.left_out.items():
            found.setdefault(reason, []).extend(keys)
    return found


def measured(shards: Sequence[LatentFile]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over all positions and mirror images, in float64."""
    channels = shards[0].shape[0]
    first = next(shard for shard in shards if len(shard))
    shift = first.latent(0).astype(numpy.float64).mean((1, 2))
    total, squares, count = numpy.zeros(channels), numpy.zeros(channels), 0
    for shard in shards:
        for row in range(len(shard)):
            for flipped in (False, True) if shard.flips else (False,):
                values = shard.latent(row, flipped=flipped).reshape(channels, -1) - shift[:, None]
                total, squares = total + values.sum(1), squares + numpy.square(values).sum(1)
                count += values.shape[1]
    mean = total / count
    deviation = numpy.sqrt(numpy.maximum(squares / count - mean**2, 0))
    # A constant channel keeps its scale, as in the statistics of an artefact.
    return tuple((mean + shift).tolist()), tuple(numpy.where(deviation > 1e-8, deviation, 1.0).tolist())


def _files(path: Path, manifest: LatentManifest | None) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder of latents; `vtp encode` writes one")
    if manifest is not None:
        missing = [name for name in manifest.shards if not (path / name).is_file()]
        if missing:
            raise DataError(f"{path}: {missing[0]} of its {MANIFEST} is missing; copy the whole folder")
        return [path / name for name in manifest.shards]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .safetensors file in it; give a folder of latents")
    return files
