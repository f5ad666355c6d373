"""Reads samples of webdataset shards by index."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from vtp_core.data.completeness import Lost
from vtp_core.data.decoding import clean_text, decode_image, decode_text, decode_utf
from vtp_core.data.latent_file import decode_latent
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.tar_shards.shards import Shards
from vtp_plugins.tar_shards.subset import Subset
from vtp_plugins.webdataset.config import WebDatasetConfig
from vtp_plugins.webdataset.urls import find_shards

_SCANNED = 256
"""Samples whose JSON is read to see whether it has captions and labels."""
_MOST_UNREADABLE = 3
"""Of them; each takes seconds to give up."""
_MOST_JSON = 1 << 22
"""Largest JSON object, in bytes."""
_MOST_CLASSES = 1 << 24
_WORDS = {"image": "an image", "latent": "a latent", "text": "a caption", "label": "a label"}


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
            "image": config.extensions("image"),
            "text": config.extensions("text"),
            "label": config.extensions("label"),
            "latent": config.latent,
            "json": config.record,
        }
        paths, missing = find_shards(config.urls, allow_missing=config.allow_missing)
        subset = None if config.subset is None else Subset(config.subset.size, config.subset.seed)
        self.shards = Shards(paths, columns, ignored=config.ignored, cache=config.index_cache, subset=subset)
        self._lost = self.shards.lost(tuple(f"{path}: missing" for path in missing))
        self._problems: dict[str, Sequence[str]] = {}
        self.fields = self._fields()

    def _fields(self) -> frozenset[str]:
        """Images if there are any, and what most samples have of the rest; exceptions are problems."""
        counts = self._counts()
        if not counts["image"][0] and not counts["latent"][0]:
            extensions = ", ".join(f"{name} ({count})" for name, count in self.shards.found.items())
            raise DataError(
                f"{self.config.urls}: 0 of {len(self.shards)} samples have an image; found members "
                f"{extensions}; name the right extension in `image`"
            )
        found = {name for name, (have, of) in counts.items() if 2 * have > of}
        found.add("image" if counts["image"][0] else "latent")
        for name, (have, of) in counts.items():
            if 0 < have < of:
                what = "sample without" if name in found else "not used: few samples have"
                read = "" if of == len(self.shards) else " that were looked at"
                count = of - have if name in found else have
                self._problems[f"{what} {_WORDS[name]}"] = [f"{self.config.urls}: {count} of {of}{read}"]
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

    def _counts(self) -> dict[str, tuple[int, int]]:
        """Field -> samples that have it, of how many; JSON objects are read for samples without the file."""
        total = len(self.shards)
        counts = {name: (self.shards.count(name), total) for name in _WORDS}
        in_json = {"text": self.config.record_text, "label": self.config.record_label}
        wanted = {name: keys for name, keys in in_json.items() if counts[name][0] < total}
        if wanted and self.shards.count("json"):
            have, looked_at, unreadable = dict.fromkeys(wanted, 0), 0, 0
            for row in sorted({place * total // _SCANNED for place in range(_SCANNED)}):
                record: dict[str, Any] = {}
                try:
                    record = self._json(row)
                except BadSample as error:
                    unreadable += error.reason == "unreadable"
                    if unreadable == _MOST_UNREADABLE:
                        raise DataError(
                            f"{self.config.urls}: {error}; {unreadable} samples are so"
                        ) from error
                looked_at += 1
                for name, keys in wanted.items():
                    given = any(record.get(key) is not None for key in keys)
                    have[name] += given or self.shards.has(row, name)
            counts |= {name: (count, looked_at) for name, count in have.items()}
        return counts

    def __len__(self) -> int:
        return len(self.shards)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Problem found while indexing, or field that some samples lack -> where."""
        return {**self.shards.problems(), **self._problems}

    def lost(self) -> Lost:
        """Shards that could not be read whole, and those that are missing."""
        return self._lost

    def image_bytes(self, index: int) -> int | None:
        """See `vtp_core.data.source.SizedSource.image_bytes`."""
        return self.shards.length(index, "image")

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source.read`."""
        key = self.shards.key(index)
        record = functools.cache(lambda: self._json(index))
        template = self.config.caption if "text" in fields else None
        text: str | None = None
        label: int | None = None
        # Cheap fields first: a sample without a caption need not be decoded.
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
        if len(data) > _MOST_JSON:
            raise BadSample(self.shards.key(index), "damaged json", f"{len(data)} bytes")
        try:
            record = json.loads(decode_utf(data))
        except (ValueError, RecursionError) as error:
            raise BadSample(self.shards.key(index), "damaged json", str(error)) from error
        if not isinstance(record, dict):
            raise BadSample(
                self.shards.key(index), "damaged json", f"a {type(record).__name__}, not an object"
            )
        return record

    def _text(self, index: int, key: str, record: Callable[[], dict[str, Any]]) -> str:
        data = self._bytes(index, "text")
        if data is not None:
            return decode_text(data, key, self.limits)
        for name in self.config.record_text:
            value = record().get(name)
            if isinstance(value, str):
                return clean_text(value, key, self.limits)
        raise BadSample(key, "no caption")

    def _label(self, index: int, key: str, record: Callable[[], dict[str, Any]]) -> int:
        data = self._bytes(index, "label")
        value: object = None
        if data is not None:
            value = decode_utf(data[:_MOST_JSON]).strip()
        else:
            given = (record().get(name) for name in self.config.record_label)
            value = next((found for found in given if found is not None), None)
        if value is None:
            raise BadSample(key, "no label")
        said = str(value)[:40]
        named = self.classes.index(value) if isinstance(value, str) and value in self.classes else None
        try:
            # A label file holds an index, also where classes are called "1", "2", ...; text in JSON a name.
            label = int(said) if data is not None or named is None else named
        except ValueError:
            if named is None:
                raise BadSample(key, "label is no index", repr(said)) from None
            label = named
        if self.classes and not 0 <= label < len(self.classes):
            raise DataError(
                f"sample {key}: label {said} is outside of the {len(self.classes)} classes "
                f"{', '.join(self.classes[:20])}; correct `classes` of the source"
            )
        if not 0 <= label < _MOST_CLASSES:
            raise BadSample(key, "label is no index", said)
        return label

    def _latent(self, index: int, key: str) -> NDArray[numpy.float32]:
        data = self._bytes(index, "latent")
        if data is None:
            raise BadSample(key, "no latent")
        return decode_latent(data, key)
