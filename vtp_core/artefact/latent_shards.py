"""Latents in safetensors files, in the layout of LightningDiT. Imports no torch.

A file holds ``latents`` (n, d, h, w), ``latents_flip`` of the mirror images and ``labels`` (n,) int64, -1
where there is none, as LightningDiT's extraction writes them. Ours add ``index`` (n,), positions in the
source, and texts as bytes: ``keys`` and ``keys_end``, ``texts`` and ``texts_end``; of a variational tokenizer
``logvar`` (n, d, h, w), of a discrete one ``indices`` (n, Q, h, w) int32, both also with ``_flip``. A file of
``vtp encode`` for single images is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.atomic import replacing_file
from vtp_core.config import first_problem
from vtp_core.errors import DataError

_TYPES = ("F32", "F16", "F64")
_WHOLE = ("I64", "I32")
_NAMES = TypeAdapter(list[str])
_LEFT_OUT = TypeAdapter(dict[str, list[str]])


@dataclass(frozen=True, kw_only=True)
class ShardContent:
    """What a file of either layout holds of n samples.

    Attributes:
        latents: (n, d, h, w), not normalised.
        keys: Names of the samples.
        index: Their positions in the source.
        flips: (n, d, h, w) of the mirror images.
        labels: Classes.
        texts: Captions.
        further: ``logvar``, ``indices`` and those of the mirror images, (n, ...) each.
        left_out: Reason -> keys of samples that could not be read.
        tokenizer: What made them.
    """

    latents: NDArray[numpy.float32]
    keys: Sequence[str]
    index: Sequence[int]
    flips: NDArray[numpy.float32] | None = None
    labels: Sequence[int] | None = None
    texts: Sequence[str] | None = None
    further: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tokenizer: TokenizerName


def write_shard(path: Path, content: ShardContent) -> None:
    """Writes a file, whole or not at all."""
    labels = [-1] * len(content.keys) if content.labels is None else content.labels
    tensors: dict[str, NDArray[Any]] = {
        "latents": content.latents,
        "labels": numpy.array(labels, dtype=numpy.int64),
        "index": numpy.array(content.index, dtype=numpy.int64),
        **_packed("keys", content.keys),
        **content.further,
    }
    if content.flips is not None:
        tensors["latents_flip"] = content.flips
    if content.texts is not None:
        tensors |= _packed("texts", content.texts)
    whole = {name: numpy.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {
        "tokenizer": content.tokenizer.model_dump_json(),
        "normalized": "false",
        "left_out": json.dumps(content.left_out),
    }
    with replacing_file(path) as file:
        for part in _ordered(save(whole, metadata)):
            file.write(part)


def _ordered(data: bytes) -> tuple[bytes, memoryview]:
    """Header and tensors of a safetensors file, the same for the same content: metadata come in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, memoryview(data)[end:]


def _packed(name: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = numpy.cumsum([len(text) for text in encoded], dtype=numpy.int64)
    return {name: numpy.frombuffer(b"".join(encoded), dtype=numpy.uint8), f"{name}_end": ends}


class LatentShard:
    """One file of latents, opened for reading; a pickled copy opens it again.

    Attributes:
        path: The file.
        shape: (d, h, w).
        flips: Whether latents of mirror images are there.
        labels: (n,) int64, or None where the file has none.
        index: (n,) int64: positions in the source; None in files of others.
        has_texts: Whether captions are there.
        left_out: Reason -> keys of samples that could not be read.
        tokenizer: What made the latents, or None where the file doesn't say.

    Raises:
        DataError: The file is missing, damaged or of another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        if not path.is_file():
            raise DataError(f"{path}: no such file of latents")
        try:
            shapes = self._checked_shapes()
            self.shape: tuple[int, ...] = shapes["latents"][1:]
            self._count = shapes["latents"][0]
            self.flips = "latents_flip" in shapes
            self.labels = self._labels(shapes)
            self.index = self._whole("index") if "index" in shapes else None
            self._ends: dict[str, NDArray[numpy.int64]] = {
                name: self._checked_ends(name, shapes) for name in ("keys", "texts") if name in shapes
            }
            self.tokenizer: TokenizerName | None = None
            self.left_out: dict[str, list[str]] = {}
            self._names: list[str] = []
            self._read_metadata()
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a file of latents ({str(error).splitlines()[0]})") from error
        self.has_texts = "texts" in self._ends

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def latent(self, row: int, *, flipped: bool = False) -> NDArray[numpy.float32]:
        """One latent, (d, h, w)."""
        part = self._slices()["latents_flip" if flipped else "latents"]
        found: NDArray[numpy.float32] = part[row : row + 1][0].astype(numpy.float32)
        return found

    def key(self, row: int) -> str:
        """Name of the sample."""
        if "keys" in self._ends:
            return self._text("keys", row)
        return self._names[row] if row < len(self._names) else f"{self.path.name}:{row}"

    def text(self, row: int) -> str:
        """Its caption."""
        return self._text("texts", row)

    def _slices(self) -> Mapping[str, Any]:
        """The tensors, each read in parts."""
        if self._file is None:
            file: Any = safe_open(self.path, framework="np")
            self._file = {name: file.get_slice(name) for name in file.keys()}
        found: Mapping[str, Any] = self._file
        return found

    def _whole(self, name: str) -> NDArray[numpy.int64]:
        part = self._slices()[name]
        if part.get_shape() == [0]:  # safetensors slices no tensor without elements
            return numpy.zeros(0, dtype=numpy.int64)
        found: NDArray[numpy.int64] = part[:].astype(numpy.int64)
        return found

    def _text(self, name: str, row: int) -> str:
        ends = self._ends[name]
        start = int(ends[row - 1]) if row else 0
        return bytes(self._slices()[name][start : int(ends[row])]).decode(errors="replace")

    def _checked_shapes(self) -> dict[str, tuple[int, ...]]:
        found = self._slices()
        shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
        if sized := sorted(name for name in shapes if name.startswith("latents.")):
            raise ValueError(f"images of several shapes, {', '.join(sized)}; encode them with --crop")
        least = 0 if "index" in shapes else 1  # one of ours may hold no image that could be read
        if len(shapes.get("latents", ())) != 4 or 0 in shapes["latents"][1:] or shapes["latents"][0] < least:
            raise ValueError(f"expected `latents` (n, d, h, w), found {shapes.get('latents', 'none')}")
        count = shapes["latents"][0]
        for name, part in found.items():
            floating = name.startswith(("latents", "logvar"))
            kinds = _TYPES if floating else ("U8",) if name in ("keys", "texts") else _WHOLE
            if part.get_dtype() not in kinds:
                raise ValueError(f"`{name}` is {part.get_dtype()}; read are {', '.join(kinds)}")
        for name, shape in (("latents_flip", shapes["latents"]), ("index", (count,))):
            if shapes.get(name, shape) != shape:
                raise ValueError(f"`{name}` is {shapes[name]}, expected {shape}")
        return shapes

    def _labels(self, shapes: Mapping[str, tuple[int, ...]]) -> NDArray[numpy.int64] | None:
        if "labels" not in shapes:
            return None
        labels = self._whole("labels").reshape(-1)
        if len(labels) != self._count:
            raise ValueError(f"`labels` has {len(labels)} numbers for {self._count} latents")
        return None if (labels < 0).any() else labels

    def _checked_ends(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> NDArray[numpy.int64]:
        if shapes.get(f"{name}_end") != (self._count,):
            raise ValueError(f"`{name}_end` does not tell {self._count} texts apart")
        ends = self._whole(f"{name}_end")
        if len(ends) == 0:
            return ends
        if ends[0] < 0 or (numpy.diff(ends) < 0).any() or ends[-1] != shapes[name][0]:
            raise ValueError(f"`{name}_end` does not fit `{name}`")
        return ends

    def _read_metadata(self) -> None:
        with safe_open(self.path, framework="np") as file:
            metadata = file.metadata() or {}
        if metadata.get("normalized", "false") != "false":
            raise ValueError("its latents are normalised; encode without --normalized")
        try:
            self._names = _NAMES.validate_json(metadata.get("images", "[]"))
            self.left_out = _LEFT_OUT.validate_json(metadata.get("left_out", "{}"))
            if (named := metadata.get("tokenizer")) is not None:
                self.tokenizer = TokenizerName.model_validate_json(named)
        except ValidationError as error:
            raise ValueError(f"its metadata is damaged: {first_problem(error)}") from error
