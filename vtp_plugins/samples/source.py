"""Reads the drawings in this package."""

from __future__ import annotations

import json
from importlib.resources import as_file, files

import numpy
from numpy.typing import NDArray

from vtp_core.data.decoding import clean_text, decode_image
from vtp_core.data.source import BadSample, Sample
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.samples.config import SamplesConfig
from vtp_plugins.tar_shards.shards import Shards

CLASSES = (
    "animals",
    "buildings",
    "education",
    "electronics",
    "food",
    "office",
    "people",
    "plants",
    "recreation",
    "tools",
    "transportation",
)


class Samples:
    """Drawings of 64x64 pixels with captions and 11 classes.

    Args:
        config: Its table.
        limits: Limits on its samples.
    """

    fields = frozenset({"image", "text", "label"})
    classes: tuple[str, ...] = CLASSES

    def __init__(self, config: SamplesConfig, limits: DecodeLimits) -> None:
        self.config = config
        self.limits = limits
        with as_file(files("vtp_plugins.samples") / "data" / f"{config.split}.tar") as path:
            # Reading 1,000 headers takes milliseconds; no index is written into the installed package.
            self._shards = Shards([path], {"image": ["webp"], "record": ["json"]}, cache=False)

        # Ten megabytes; decoding again in every epoch would be most of a quickstart's loading time.
        self._decoded: dict[int, NDArray[numpy.uint8]] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def image_bytes(self, index: int) -> int | None:
        """See `vtp_core.data.source.SizedSource.image_bytes`."""
        return self._shards.length(index, "image")

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source`."""
        key = self._shards.key(index)
        record = json.loads(self._member(index, "record"))
        text = clean_text(record["text"], key, self.limits)
        if self.config.caption == "title_and_class":
            text = f"{text.rstrip('. ')}. A drawing of {CLASSES[record['cls']]}."
        if "image" in fields and index not in self._decoded:
            self._decoded[index] = decode_image(self._member(index, "image"), key, self.limits)
        image = self._decoded[index] if "image" in fields else None
        return Sample(key=key, image=image, text=text, label=record["cls"])

    def _member(self, index: int, column: str) -> bytes:
        data = self._shards.read(index, column, self.limits.max_bytes)
        if data is None:
            raise BadSample(self._shards.key(index), f"no {column}")
        return data
