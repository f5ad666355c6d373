"""Files of latents of either layout: what they share, opened by suffix. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy
from numpy.typing import NDArray

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.artefact.latent_shards import LatentShard
from vtp_core.latents.tar_shard import TarShard


class LatentFile(Protocol):
    """An opened file of latents; see `LatentShard` for the meaning of each."""

    path: Path
    shape: tuple[int, ...]
    flips: bool
    labels: NDArray[numpy.int64] | None
    index: NDArray[numpy.int64] | None
    has_texts: bool
    tokenizer: TokenizerName | None

    @property
    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Reason -> keys of samples that could not be read."""

    def __len__(self) -> int:
        """Number of samples."""

    def latent(self, row: int, *, flipped: bool = False) -> NDArray[numpy.float32]:
        """One latent, (d, h, w)."""

    def key(self, row: int) -> str:
        """Name of the sample."""

    def text(self, row: int) -> str:
        """Its caption."""


def open_file(path: Path) -> LatentFile:
    """A file of latents.

    Raises:
        DataError: It is missing, damaged or of another layout.
    """
    return TarShard(path) if path.suffix == ".tar" else LatentShard(path)
