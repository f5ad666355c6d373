"""Latents in tar shards, as WebDataset reads them. Imports no torch.

Members of a sample, ``POSITION`` being its eight-digit position in the source: ``POSITION.latent.npy``
(d, h, w) float32, ``POSITION.latent_flip.npy`` of the mirror image, ``POSITION.logvar.npy`` or
``POSITION.indices.npy`` (each also with ``_flip``), ``POSITION.cls``, ``POSITION.txt`` and ``POSITION.json``
with its name, `{"key": ...}`. A pax header of the archive has the tokenizer and what was left out.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.artefact.latent_shards import ShardContent
from vtp_core.atomic import replacing_file
from vtp_core.data.latent_file import decode_latent
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError

_TOKENIZER, _LEFT_OUT, _SHAPE = "VTP.tokenizer", "VTP.left_out", "VTP.shape"
_LATENT, _FLIP = "latent.npy", "latent_flip.npy"
_LARGEST = 1 << 20  # bytes of a member that is no array
_REASONS = TypeAdapter(dict[str, list[str]])


def write_tar(path: Path, content: ShardContent) -> None:
    """Writes a shard, whole or not at all."""
    flips = {} if content.flips is None else {"latent_flip": content.flips}
    arrays = {"latent": content.latents, **flips, **content.further}
    header = {
        _TOKENIZER: content.tokenizer.model_dump_json(),
        _LEFT_OUT: json.dumps(content.left_out),
        _SHAPE: json.dumps(list(content.latents.shape[1:])),
    }
    with (
        replacing_file(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=header) as tar,
    ):
        for row, position in enumerate(content.index):
            members = {f"{name}.npy": _npy(array[row]) for name, array in arrays.items()}
            if content.labels is not None and content.labels[row] >= 0:
                members["cls"] = str(content.labels[row]).encode()
            if content.texts is not None:
                members["txt"] = content.texts[row].encode("utf-8", "replace")
            members["json"] = json.dumps({"key": content.keys[row]}).encode()
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{position:08d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    numpy.save(file, numpy.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


class TarShard:
    """One shard, opened for reading; members are read where they are, nothing is unpacked.

    Attributes:
        path: The file.
        shape: (d, h, w).
        flips: Whether latents of mirror images are there.
        labels: (n,) int64, or None where a sample has none.
        index: (n,) int64: positions in the source.
        has_texts: Whether captions are there.
        left_out: Reason -> keys of samples that could not be read.
        tokenizer: What made the latents.

    Raises:
        DataError: The file is missing, damaged or none of `write_tar`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"{path}: no such file of latents")
        self._members: list[dict[str, tuple[int, int]]] = []
        positions: list[int] = []
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    position, _, extension = member.name.partition(".")
                    if not member.isreg() or not position.isdecimal() or member.sparse is not None:
                        raise ValueError(f"its member {member.name!r} is none of a shard of latents")
                    if not positions or positions[-1] != int(position):
                        positions.append(int(position))
                        self._members.append({})
                    self._members[-1][extension] = (member.offset_data, member.size)
                header = dict(tar.pax_headers)
            self.tokenizer: TokenizerName | None = TokenizerName.model_validate_json(header[_TOKENIZER])
            self.left_out = _REASONS.validate_json(header[_LEFT_OUT])
            self.shape: tuple[int, ...] = TypeAdapter(tuple[int, int, int]).validate_json(header[_SHAPE])
            self.index: NDArray[numpy.int64] | None = numpy.array(positions, dtype=numpy.int64)
            if any(_LATENT not in names for names in self._members):
                raise ValueError("a sample has no latent")
            self.flips = all(_FLIP in names for names in self._members)
            self.has_texts = all("txt" in names for names in self._members)
            self.labels = self._labels()
        except KeyError as error:
            raise DataError(
                f"{path}: not a shard of latents (no header {error}); see `vtp encode`"
            ) from error
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: not a shard of latents ({str(error).splitlines()[0]})") from error

    def __len__(self) -> int:
        return len(self._members)

    def latent(self, row: int, *, flipped: bool = False) -> NDArray[numpy.float32]:
        """One latent, (d, h, w)."""
        place = self._members[row][_FLIP if flipped else _LATENT]
        try:
            latent = decode_latent(self._bytes(*place), self.key(row))
        except BadSample as error:
            raise DataError(f"{self.path}: {error}; encode it again") from error
        if latent.shape != self.shape:
            raise DataError(f"{self.path}: a latent {latent.shape} among {self.shape}; encode it again")
        return latent

    def key(self, row: int) -> str:
        """Name of the sample."""
        if "json" not in self._members[row]:
            return f"{self.path.name}:{row}"
        try:
            found = json.loads(self._small(row, "json"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: the name of sample {row} is damaged; encode it again") from error
        return str(found.get("key", row)) if isinstance(found, dict) else str(row)

    def text(self, row: int) -> str:
        """Its caption."""
        return self._small(row, "txt").decode(errors="replace")

    def _labels(self) -> NDArray[numpy.int64] | None:
        if not all("cls" in names for names in self._members):
            return None
        values = [int(self._small(row, "cls")) for row in range(len(self))]
        return numpy.array(values, dtype=numpy.int64)

    def _small(self, row: int, extension: str) -> bytes:
        place, size = self._members[row][extension]
        if size > _LARGEST:
            raise DataError(f"{self.path}: {extension} of sample {row} has {size} bytes")
        return self._bytes(place, size)

    def _bytes(self, place: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(place)
            return file.read(size)
