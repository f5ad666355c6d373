"""Layers of images, read once by a frozen encoder and kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.study.images import open_images
from benchmarks.study_branches.config import CellConfig
from vtp_core.encoder import Encoder
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.parameters import Dims
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.plugins import Plugins, load_plugins

ROWS = 64
"""Images at a time."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and their layers.

    Attributes:
        patches: (B, N, D), the encoder's tokens; float16.
        layers: Tapped block -> (B, N, its width); float16.
        pixels: (B, 3, S, S) uint8 at native size.
        label: (B,) int64.
        grid: Rows and columns of the N tokens.
    """

    patches: Tensor
    layers: Mapping[int, Tensor]
    pixels: Tensor
    label: Tensor
    grid: tuple[int, int]

    def rows(self, chosen: Tensor) -> Split:
        """Some of the images."""
        return Split(
            patches=self.patches[chosen],
            layers={layer: tokens[chosen] for layer, tokens in self.layers.items()},
            pixels=self.pixels[chosen],
            label=self.label[chosen],
            grid=self.grid,
        )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Training images, held-out ones, and the encoder's sizes."""

    train: Split
    val: Split
    dims: Dims


def read_layers(config: CellConfig, work: Path) -> Layers:
    """The layers that arms of this encoder tap; from `work` if they were read before."""
    asked = json.dumps(
        [config.features.model_dump(mode="json", exclude={"train"}), config.layers, config.folder]
    )
    path = work / f"layers_{hashlib.sha256(asked.encode()).hexdigest()[:12]}.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return Layers(train=Split(**saved["train"]), val=Split(**saved["val"]), dims=Dims(**saved["dims"]))
    plugins, features = load_plugins(), config.features
    encoder = _encoder(config, plugins)
    encoder.check_layers(config.layers, "layers")
    train, val = (
        _read(open_images(features.data, config.folder, split, count, plugins), config, encoder)
        for split, count in (("train", features.pool), ("val", features.val))
    )
    dims = Dims(
        width=encoder.width,
        patch=encoder.patch,
        depth=encoder.depth,
        has_cls=encoder.has_cls,
        tap_widths=tuple(encoder.tap_widths),
    )
    work.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"train": vars(train), "val": vars(val), "dims": vars(dims)}, part)
    part.replace(path)
    return Layers(train=train, val=val, dims=dims)


def _encoder(config: CellConfig, plugins: Plugins) -> Encoder:
    if config.features.encoder is not None:
        from vtp_plugins.timm.encoder import TimmEncoder

        return TimmEncoder(config.features.encoder).eval()
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.artefact.loading import load

    return load(find_tokenizer(config.features.tokenizer, plugins), plugins=plugins).encoder


@torch.no_grad()
def _read(data: EvaluationSet, config: CellConfig, encoder: Encoder) -> Split:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    features = config.features
    patches: list[Tensor] = []
    layers: dict[int, list[Tensor]] = {layer: [] for layer in config.layers}
    pixels: list[Tensor] = []
    label: list[Tensor] = []
    grid = (0, 0)
    for large, native in zip(
        data.batches(features.size, ROWS, fields=frozenset({"image", "label"})),
        data.batches(features.native, ROWS),
        strict=True,
    ):
        image = (large.crops["global"].float() / 255 - mean) / std
        tokens = encoder([image], [None], layers=config.layers)[0]
        grid = tokens.grid
        patches.append(tokens.patches[:, 0].half())
        for layer, found in layers.items():
            found.append(tokens.layers[layer][:, 0].half())
        pixels.append(native.crops["global"][:, 0])
        assert large.label is not None
        label.append(large.label)
    return Split(
        patches=torch.cat(patches),
        layers={layer: torch.cat(found) for layer, found in layers.items()},
        pixels=torch.cat(pixels),
        label=torch.cat(label),
        grid=grid,
    )
