"""Vectors of images, read once and kept in a file: a frozen network's, a tokenizer's, or raw patches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study.images import open_images
from benchmarks.study_pca_vq.config import FeaturesConfig
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.plugins import Plugins, load_plugins
from vtp_plugins.vq.tokens import spread

ROWS = 64
"""Images at a time."""
FORECAST_TOKENS = 32
"""Vectors of an image that `vtp codebook predict` reads by default."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and their vectors.

    Attributes:
        vectors: (B, N, D).
        sample: (B, n, D), those that `vtp codebook predict` would read.
        pixels: (B, 3, S, S) uint8 at native size.
        label: (B,) int64.
        grid: Rows and columns of the N vectors; None where they were drawn from a finer grid.
    """

    vectors: Tensor
    sample: Tensor
    pixels: Tensor
    label: Tensor
    grid: tuple[int, int] | None

    def rows(self, chosen: Tensor) -> Split:
        """Some of the images."""
        return Split(
            vectors=self.vectors[chosen],
            sample=self.sample[chosen],
            pixels=self.pixels[chosen],
            label=self.label[chosen],
            grid=self.grid,
        )


def read_features(config: FeaturesConfig, folder: str | None, work: Path) -> tuple[Split, Split]:
    """Training images and held-out ones; from `work` if they were read before.

    Args:
        config: What to read.
        folder: Where the shards are; None: the samples of the package.
        work: Where vectors are kept.
    """
    asked = json.dumps([config.model_dump(mode="json"), folder], sort_keys=True)
    path = work / f"features_{hashlib.sha256(asked.encode()).hexdigest()[:12]}.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return Split(**saved["train"]), Split(**saved["val"])
    plugins = load_plugins()
    reader = _reader(config, plugins)
    train, val = (
        _read(open_images(config.data, folder, split, count, plugins), config, reader)
        for split, count in (("train", config.pool), ("val", config.val))
    )
    work.mkdir(parents=True, exist_ok=True)
    torch.save({"train": vars(train), "val": vars(val)}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return train, val


def _reader(config: FeaturesConfig, plugins: Plugins) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
    """From normalised images (B, 1, 3, size, size) to vectors (B, N, D) and their grid."""
    if config.of == "pixels":

        def patches(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
            small = F.interpolate(image[:, 0], size=(config.native,) * 2, mode="area")
            side = config.native // config.patch
            return F.unfold(small, config.patch, stride=config.patch).transpose(1, 2), (side, side)

        return patches
    layers = () if config.layer is None else (config.layer,)
    if config.of == "network":
        from vtp_plugins.timm.encoder import TimmEncoder

        encoder = TimmEncoder(config.encoder).eval()

        def network(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
            tokens = encoder([image], [None], layers=layers)[0]
            found = tokens.patches if config.layer is None else tokens.layers[config.layer]
            return found.flatten(1, 2), tokens.grid

        return network
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.artefact.loading import load

    model = load(find_tokenizer(config.tokenizer, plugins), plugins=plugins)
    model.encoder.check_layers(layers, "layer")

    def tokenizer(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens = model.encoder([image], [None], layers=layers)[0]
        found = tokens.patches if config.layer is None else tokens.layers[config.layer]
        return found.flatten(1, 2), tokens.grid

    return tokenizer


@torch.no_grad()
def _read(
    data: EvaluationSet,
    config: FeaturesConfig,
    reader: Callable[[Tensor], tuple[Tensor, tuple[int, int]]],
) -> Split:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    parts: dict[str, list[Tensor]] = {name: [] for name in ("vectors", "sample", "pixels", "label")}
    grid: tuple[int, int] | None = None
    for number, (large, native) in enumerate(
        zip(
            data.batches(config.size, ROWS, fields=frozenset({"image", "label"})),
            data.batches(config.native, ROWS),
            strict=True,
        )
    ):
        image = (large.crops["global"].float() / 255 - mean) / std
        vectors, grid = reader(image)
        assert large.label is not None
        parts["sample"].append(spread(vectors, FORECAST_TOKENS))
        if vectors.shape[1] > config.tokens:
            places = row_rand(row_seeds(number, torch.arange(len(vectors))), vectors.shape[1]).argsort(1)
            vectors = vectors.take_along_dim(places[:, : config.tokens, None], 1)
        parts["vectors"].append(vectors)
        parts["pixels"].append(native.crops["global"][:, 0])
        parts["label"].append(large.label)
    joined = {name: torch.cat(each) for name, each in parts.items()}
    assert grid is not None
    whole = grid[0] * grid[1] == joined["vectors"].shape[1]
    return Split(**joined, grid=grid if whole else None)
