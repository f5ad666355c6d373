"""What one proxy measured, and the folder that keeps such records. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from vtp_core.atomic import write_text
from vtp_core.config import Table
from vtp_core.errors import DataError

Finite = Annotated[float, Field(allow_inf_nan=False)]
_BYTES = 1_000_000


class Distance(Table):
    """Distances of a set of images to the real ones."""

    kernel: Finite
    """Unbiased kernel distance; it may lie a little below zero."""
    kernel_error: Finite | None = None
    """Its standard error over images alone, by the jackknife; the spread over seeds is not in it."""
    frechet: Finite | None = None
    """Fréchet distance; None with fewer images than features."""


class Point(Distance):
    """Distances of samples after some training steps."""

    step: int
    """Training steps."""
    epochs: Finite
    """Passes over the images, each counted once with its mirror image."""


class Record(Table):
    """One proxy on one tokenizer from one seed."""

    fingerprint: str
    """Hash of the tokenizer's weights and tables."""
    seed: int
    """Seed of the proxy's weights, data order, noise and samples."""
    protocol: str
    """All else that affects the numbers."""
    images: str
    """Hash of the images and of their labels."""
    channels: int
    """Latent channels d."""
    positions: int
    """Positions h * w of a latent."""
    discrete: bool
    """Whether the latents are quantised vectors."""
    parameters: int
    """Parameters of the proxy."""
    loss: Finite
    """Mean training loss of the last tenth of the steps."""
    curve: tuple[Point, ...]
    """By training step; the last one is that of all steps."""
    gaussian: Distance
    """Decoded Gaussian latents of the same mean and deviation a channel: the trivial answer."""
    reconstruction: Distance
    """Reconstructions: what a perfect generator of these latents would reach."""

    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know, such as a proxy that is narrower than the latent."""

    @property
    def final(self) -> Point:
        """After all steps."""
        return self.curve[-1]


class Records:
    """A folder with a JSON file for each tokenizer, seed, protocol and set of images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(
        self, fingerprint: str, seed: int, protocol: str, images: str, steps: tuple[int, ...]
    ) -> Record | None:
        """The record of an earlier call, if it has these steps of the curve.

        Raises:
            DataError: The file is damaged.
        """
        path = self._path(fingerprint, seed, protocol, images)
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _BYTES:
                raise ValueError("too large")
            record = Record.model_validate_json(path.read_bytes())
            if self._path(record.fingerprint, record.seed, record.protocol, record.images) != path:
                raise ValueError("of another tokenizer, seed, protocol or set of images")
        except ValueError as error:
            why = f"{error.error_count()} errors" if isinstance(error, ValidationError) else error
            raise DataError(
                f"{path} is not a record of probe-gen ({why}); delete it to measure again"
            ) from None
        return record if {*steps} <= {point.step for point in record.curve} else None

    def write(self, record: Record) -> None:
        """Keeps a record; one of the same tokenizer, seed, protocol and images is replaced."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(record.fingerprint, record.seed, record.protocol, record.images)
        write_text(path, record.model_dump_json(indent=2) + "\n")

    def _path(self, fingerprint: str, seed: int, protocol: str, images: str) -> Path:
        digest = hashlib.sha256(f"{protocol} {images}".encode()).hexdigest()[:16]
        return self.folder / f"{re.sub('[^0-9a-z]', '', fingerprint)}-{digest}-seed{seed}.json"
