"""The weights in a folder of diffusers: which files hold them, their names and shapes, their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vtp_core.artefact.config import read_json
from vtp_core.artefact.weights import read_header, require_utf8
from vtp_core.errors import CheckpointError
from vtp_plugins.pretrained.files import read_state

STEM = "diffusion_pytorch_model"
_SHARD = re.compile(r"[\w.-]+\.safetensors")

_RENAMED = (
    # Before diffusers 0.13.
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    # AutoencoderRAE before transformers 5; those of MAE have `intermediate`, DINOv2's have `mlp`.
    (r"(^encoder\..*)\.attention\.attention\.query\.", r"\1.attention.q_proj."),
    (r"(^encoder\..*)\.attention\.attention\.key\.", r"\1.attention.k_proj."),
    (r"(^encoder\..*)\.attention\.attention\.value\.", r"\1.attention.v_proj."),
    (r"(^encoder\..*)\.attention\.output\.dense\.", r"\1.attention.o_proj."),
    (r"(^encoder\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"(^encoder\..*\d)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),
)
"""Earlier names of weights, and those that diffusers' classes have now. They apply where the model has the
new name alone."""

_MAE = _RENAMED[-1]

Entry = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights in a folder.

    Attributes:
        path: Their file, or the index of their files.
        entries: Name in the files -> type and shape.
        files: Name -> the file that holds it; empty if `state` holds all.
        state: Tensors of a ``.bin`` file, which are read at once.
    """

    path: Path
    entries: Mapping[str, Entry]
    files: Mapping[str, Path]
    state: Mapping[str, Tensor]

    def renamed(self, expected: Mapping[str, Any]) -> dict[str, str]:
        """Name in the model -> name in the files; names that the model lacks stay as they are.

        Raises:
            CheckpointError: Two of the files' names are one of the model's.
        """
        found: dict[str, str] = {}
        for name in self.entries:
            own = name
            for pattern, new in _RENAMED:
                if own not in expected:
                    own = re.sub(pattern, new, own)
            own = own if own in expected else name
            if own in found:
                raise CheckpointError(f"{self.path}: {found[own]} and {name} are one weight; it was edited")
            found[own] = name
        return found

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of names as of `renamed`.

        Raises:
            CheckpointError: A file is damaged.
        """
        if not self.files:
            return {own: self.state[name] for own, name in names.items()}
        tensors = {}
        for path in sorted(set(self.files.values())):
            try:
                with safe_open(path, framework="pt", device="cpu") as file:
                    for own, name in names.items():
                        if self.files[name] == path:
                            tensors[own] = file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: damaged ({error}); copy or download it again") from error
        return tensors


def current_name(name: str, *, mae: bool) -> str:
    """The name that AutoencoderRAE has now for an encoder's weight of before transformers 5."""
    for pattern, new in _RENAMED:
        if mae or (pattern, new) != _MAE:
            name = re.sub(pattern, new, name)
    return name


def find_weights(folder: Path) -> Weights:
    """The weights in a folder: safetensors, whole or in shards, else a ``.bin`` read without running code.

    The file without a variant goes first; without one, there must be one variant (``.fp16``).

    Raises:
        CheckpointError: None, several variants, or damaged files.
        UsageError: A ``.bin`` file holds anything but tensors.
    """
    require_utf8(folder)
    for suffix in ("safetensors", "safetensors.index.json", "bin"):
        path = folder / f"{STEM}.{suffix}"
        if not path.exists():
            own, _, index = suffix.partition(".")
            names = f"{STEM}.*.{own}" if not index else f"{STEM}.{own}.index.*.json"
            shards = re.compile(r"-\d{5}-of-\d{5}\.")
            variants = [found for found in sorted(folder.glob(names)) if not shards.search(found.name)]
            if len(variants) > 1:
                listed = ", ".join(found.name for found in variants)
                raise CheckpointError(f"{folder}: holds {listed} and none without variant; leave one there")
            if not variants:
                continue
            path = variants[0]
        return _weights(path)
    raise CheckpointError(
        f"{folder}: no {STEM}.safetensors (or .bin, or shards) beside config.json; it is incomplete"
    )


def _weights(path: Path) -> Weights:
    if path.suffix == ".bin":
        state = read_state(path)
        held = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
        return Weights(path=path, entries=held, files={}, state=state)
    files = [path] if path.suffix == ".safetensors" else _shards(path)
    entries: dict[str, Entry] = {}
    homes: dict[str, Path] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise CheckpointError(f"{file}: {name} is in {homes[name].name} too; download them again")
            entries[name], homes[name] = entry, file
    return Weights(path=path, entries=entries, files=homes, state={})


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    named = read_json(index).get("weight_map")
    names = sorted(set(named.values())) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
        raise CheckpointError(f"{index}: its weight_map names no safetensors files of this folder")
    return [index.parent / name for name in names]
