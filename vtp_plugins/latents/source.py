"""Latents of another source's images, encoded once and kept; torch is imported where that is to be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from vtp_core.artefact.finding import find_tokenizer
from vtp_core.artefact.fingerprint import NETWORKS, TokenizerName
from vtp_core.artefact.latent_manifest import FORMAT_VERSION, read_manifest
from vtp_core.data.completeness import Lost, lost
from vtp_core.data.opening import open_source
from vtp_core.data.source import BadSample, Sample, Source
from vtp_core.errors import DataError
from vtp_core.latents.folder import identity, images_digest, new_manifest
from vtp_core.latents.stored import StoredLatents
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.view import Size
from vtp_plugins.latents.config import LatentsConfig

if TYPE_CHECKING:
    import torch

    from vtp_core.evaluation.progress import Show
    from vtp_core.tokenizer import Tokenizer


class Latents:
    """The images of a source with their latents. A sample that can't be encoded is a bad one.

    Args:
        config: Its table, with `tokenizer` and `source`.
        images: The opened source.
        plugins: Where the tokenizer's components are looked up, if it is read without being prepared.
    """

    def __init__(self, config: LatentsConfig, images: Source, plugins: Plugins | None = None) -> None:
        self.config = config
        self.images = images
        self.fields = frozenset(images.fields | {"latent"})
        self.classes: Sequence[str] = images.classes
        self.versions = 2 if config.flips else 1
        self._plugins = plugins
        self._stored: StoredLatents | None = None
        self._rows = numpy.zeros(0, dtype=numpy.int64)

    @classmethod
    def open_with(
        cls, config: LatentsConfig, limits: DecodeLimits, plugins: Plugins
    ) -> Latents | StoredLatents:
        """The source of a table.

        Raises:
            DataError: There is nothing to read.
        """
        if config.path is not None:
            return StoredLatents(Path(config.path), flips=config.flips)
        assert config.source is not None
        images = open_source(config.source, limits, plugins)
        if "image" not in images.fields:
            raise DataError(f"{config.use}: source {config.source.use} has no images to encode")
        return cls(config, images, plugins)

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plugins": None}

    @property
    def made_by(self) -> TokenizerName | None:
        """The tokenizer, once it is known."""
        return None if self._stored is None else self._stored.made_by

    def statistics(self) -> tuple[Sequence[float], Sequence[float], str]:
        """See `vtp_core.data.source.LatentSource.statistics`."""
        return self._ready().statistics()

    def lost(self) -> Lost:
        """Of the images."""
        return lost(self.images)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Reason -> keys of samples that could not be encoded, once it is known."""
        return {} if self._stored is None else self._stored.problems()

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """See `vtp_core.data.source.Source.read`."""
        return self.read_version(index, 0, fields)

    def read_version(self, index: int, version: int, fields: frozenset[str]) -> Sample:
        """The sample with the latent of the image (version 0) or of its mirror image (1)."""
        if "latent" not in fields:
            return self.images.read(index, fields)
        stored = self._ready()
        if (row := int(self._rows[index])) < 0:
            key = self.images.read(index, frozenset()).key
            raise BadSample(key, "not encoded", f"its image could not be read; see {stored.path}")
        # Labels and captions are read where they may have been corrected since.
        sample = stored.read_version(row, version, frozenset({"latent"}))
        if rest := fields - {"latent"}:
            further = self.images.read(index, rest)
            sample = replace(sample, **{name: getattr(further, name) for name in rest})
        return sample

    def _ready(self) -> StoredLatents:
        if self._stored is None:
            if self._plugins is None:
                raise DataError("latents: this copy of the source was made before its images were encoded")
            import torch

            from vtp_core.evaluation.progress import silent

            self.prepare(self._plugins, torch.device("cpu"), silent)
        assert self._stored is not None
        return self._stored

    def prepare(self, plugins: Plugins, device: torch.device, show: Show) -> None:
        """Encodes the images, unless a run before has done so; see `vtp_core.data.source.PreparedSource`.

        Raises:
            CheckpointError: There is no such tokenizer.
            DataError: The images can't be read, or the cache is damaged.
            NumericError: A latent is not finite.
        """
        if self._stored is not None:
            return
        assert self.config.tokenizer is not None and self.config.source is not None
        found = find_tokenizer(self.config.tokenizer, plugins)
        loaded: list[Tokenizer] = []

        def model() -> Tokenizer:
            from vtp_core.artefact.loading import load

            if not loaded:
                loaded.append(load(found, plugins=plugins).to(device))
            return loaded[0]

        name, size = identity(found, model)
        size = self.config.size or size
        folder = Path(self.config.cache) / f"{name.name or found.name}-{self._key(name, size)}"
        manifest = read_manifest(folder)
        if manifest is None:
            from vtp_core.latents.encoding import default_shard_samples

            flips, number = self.config.flips, self.config.shard_samples
            number = number or default_shard_samples(model(), size, flips=flips)
            manifest = new_manifest(
                self.config.source, self.images, name, size, flips=flips, shard_samples=number
            )
        if not manifest.complete:
            from vtp_core.latents.encoding import encode_source

            encode_source(self.images, folder, manifest, model, rows=self.config.rows, show=show)
        stored = StoredLatents(folder, flips=self.config.flips)
        self._rows = numpy.full(len(self.images), -1, dtype=numpy.int64)
        positions = [shard.index for shard in stored.shards if shard.index is not None]
        index = numpy.concatenate(positions)
        if len(index) != len(stored) or index.min() < 0 or index.max() >= len(self.images):
            raise DataError(f"{folder}: its files don't fit the source; delete the folder to encode it again")
        self._rows[index] = numpy.arange(len(index))
        self._stored = stored

    def _key(self, name: TokenizerName, size: Size) -> str:
        """Names the folder: another tokenizer, other images or another size are another one."""
        assert self.config.source is not None
        facts = {
            "version": FORMAT_VERSION,
            "networks": name.fingerprint[:NETWORKS],
            "source": self.config.source.model_dump(mode="json", exclude_defaults=True),
            "use": self.config.source.use,
            "samples": len(self.images),
            "images": images_digest(self.images),
            "size": size,
            "flips": self.config.flips,
            # 4096 was the default of earlier versions, whose folders are found so.
            "shard_samples": self.config.shard_samples or 4096,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
