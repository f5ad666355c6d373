"""Reads samples of webdataset shards by index."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from vtp_core.data.decoding import clean_text, decode_image, decode_text
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.tar_shards.shards import Shards
from vtp_plugins.tar_shards.subset import Subset
from vtp_plugins.webdataset.config import WebDatasetConfig
from vtp_plugins.webdataset.urls import find_shards


class WebDataset:
    """Tar shards with members ``KEY.jpg``, ``KEY.txt``, ``KEY.cls`` and ``KEY.json``.

    Nothing is unpickled and no command is run.

    Args:
        config: Its table.
        limits: Limits on its samples.

    Raises:
        DataError: Shards are missing, or none of them has a sample with a known member.
    """

    def __init__(self, config: WebDatasetConfig, limits: DecodeLimits) -> None:
        self.config = config
        self.limits = limits
        self.classes: tuple[str, ...] = config.classes
        columns = {
            "image": config.image,
            "text": config.text,
            "label": config.label,
            "latent": config.latent,
            "json": config.record,
        }
        paths = find_shards(config.urls, allow_missing=config.allow_missing)
        subset = None if config.subset is None else Subset(config.subset.size, config.subset.seed)
        self.shards = Shards(paths, columns, ignored=config.ignored, cache=config.index_cache, subset=subset)
        self.fields = self._fields()

    def _fields(self) -> frozenset[str]:
        """Fields that samples have; those in JSON objects are taken from the first one."""
        found = {name for name in ("image", "text", "label", "latent") if self.shards.count(name)}
        if not found & {"image", "latent"}:
            extensions = ", ".join(f"{name} ({count})" for name, count in self.shards.found.items())
            raise DataError(
                f"{self.config.urls}: 0 of {len(self.shards)} samples have an image; found members "
                f"{extensions}; name the right extension in `image`"
            )
        if self.shards.count("json"):
            for index in range(len(self.shards)):
                try:
                    record = self._json(index)
                except BadSample:
                    continue
                if record:
                    found |= {"text"} if any(key in record for key in self.config.record_text) else set()
                    found |= {"label"} if any(key in record for key in self.config.record_label) else set()
                    break
        template = self.config.caption
        if template is not None:
            needs = {"label"} if "{class}" in template else set()
            needs |= {"text"} if "{text}" in template else set()
            if not needs <= found:
                raise DataError(
                    f"{self.config.urls}: caption {template!r} needs {' and '.join(sorted(needs - found))}"
                )
            found.add("text")
        return frozenset(found)

    def __len__(self) -> int:
        return len(self.shards)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Problem found while indexing -> where."""
        return self.shards.problems()

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source.read`."""
        key = self.shards.key(index)
        record: dict[str, Any] | None = None
        template = self.config.caption if "text" in fields else None
        text: str | None = None
        label: int | None = None
        # Cheap fields first: a sample without a caption need not be decoded.
        if fields & {"text", "label"}:
            record = self._json(index)
        if "label" in fields or (template and "{class}" in template):
            label = self._label(index, key, record)
        if "text" in fields:
            if template is None or "{text}" in template:
                text = self._text(index, key, record)
            if template is not None:
                name = self.classes[label] if label is not None and self.classes else ""
                text = template.format_map({"class": name, "text": text or ""})
        return Sample(
            key=key,
            image=self._image(index, key) if "image" in fields else None,
            text=text,
            label=label,
            latent=self._latent(index, key) if "latent" in fields else None,
        )

    def _bytes(self, index: int, column: str) -> bytes | None:
        return self.shards.read(index, column, self.limits.max_bytes)

    def _image(self, index: int, key: str) -> NDArray[numpy.uint8]:
        data = self._bytes(index, "image")
        if data is None:
            raise BadSample(key, "no image")
        return decode_image(data, key, self.limits)

    def _json(self, index: int) -> dict[str, Any]:
        data = self._bytes(index, "json")
        if data is None:
            return {}
        try:
            record = json.loads(data.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            raise BadSample(self.shards.key(index), "damaged json", str(error)) from error
        if not isinstance(record, dict):
            raise BadSample(
                self.shards.key(index), "damaged json", f"a {type(record).__name__}, not an object"
            )
        return record

    def _text(self, index: int, key: str, record: dict[str, Any] | None) -> str:
        data = self._bytes(index, "text")
        if data is not None:
            return decode_text(data, key, self.limits)
        for name in self.config.record_text:
            value = (record or {}).get(name)
            if isinstance(value, str):
                return clean_text(value, key, self.limits)
        raise BadSample(key, "no caption")

    def _label(self, index: int, key: str, record: dict[str, Any] | None) -> int:
        data = self._bytes(index, "label")
        value: object = None
        if data is not None:
            value = data.decode("utf-8", errors="replace").strip()
        else:
            names = (name for name in self.config.record_label if name in (record or {}))
            if (name := next(names, None)) is not None:
                value = (record or {})[name]
        if value is None:
            raise BadSample(key, "no label")
        if isinstance(value, str) and value in self.classes:
            return self.classes.index(value)
        try:
            label = int(str(value))
        except ValueError as error:
            raise BadSample(key, "label is no index", f"{value!r}") from error
        if label < 0 or (self.classes and label >= len(self.classes)):
            raise DataError(
                f"sample {key}: label {label} is outside of the {len(self.classes)} classes "
                f"{', '.join(self.classes[:20])}; correct `classes` of the source"
            )
        return label

    def _latent(self, index: int, key: str) -> NDArray[numpy.float32]:
        data = self._bytes(index, "latent")
        if data is None:
            raise BadSample(key, "no latent")
        try:
            latent = numpy.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise BadSample(key, "damaged latent", str(error)) from error
        if latent.ndim != 3 or latent.dtype.kind != "f":
            raise BadSample(key, "damaged latent", f"{latent.dtype} {latent.shape}, not float (d, h, w)")
        return numpy.asarray(latent, dtype=numpy.float32)
