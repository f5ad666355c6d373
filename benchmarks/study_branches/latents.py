"""A latent made of an encoder's layers: branches, principal axes, a codebook. Fitted on training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.study_branches.config import CellConfig, TrainingConfig
from benchmarks.study_branches.features import Layers, Split
from benchmarks.study_branches.residual import ResidualBranch
from vtp_core.features import Tokens
from vtp_core.math.moments import Moments
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_core.parameters import Dims
from vtp_plugins.fusion.config import FusionConfig
from vtp_plugins.fusion.fusion import Fusion
from vtp_plugins.vq.build import build_quantizer
from vtp_plugins.vq.config import ProductConfig
from vtp_plugins.vq.quantizer import Quantizer

CHUNK = 8192
"""Vectors that are searched at once."""

Pair = tuple[Tensor, Tensor]
"""Of training images and of held-out ones, (B, N, d) each."""


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latents of the two splits.

    Attributes:
        train: (B, N, d).
        val: (B, N, d).
        report: Channels; of a codebook its bits a token and the share of codes in use on held-out images.
    """

    train: Tensor
    val: Tensor
    report: dict[str, float]


@torch.no_grad()
def make_latents(config: CellConfig, layers: Layers, seed: int) -> Latents:
    """The latents of a cell.

    All branches get the same total variance. With one codebook, or none, the principal axes are those of the
    branches together; with one codebook a branch each has its own, and as many of them.
    """
    table = config.latent.quantizer
    pairs = [_scaled(pair) for pair in _branches(config, layers, seed)]
    if isinstance(table, ProductConfig) and config.latent.channels is not None:
        narrow = config.latent.channels // len(pairs)
        train, val = _joined([principal(pair, narrow) for pair in pairs])
    else:
        train, val = principal(_joined(pairs), config.latent.channels)
    report = {"channels": float(train.shape[-1])}
    if table is not None:
        torch.manual_seed(seed)
        quantizer = build_quantizer(table, train.shape[-1])
        train_codebook(quantizer, train.flatten(0, 1), config.training, seed)
        codes = _codes(quantizer, val)
        train, val = quantizer.lookup(_codes(quantizer, train)), quantizer.lookup(codes)
        sizes = quantizer.codebook_sizes
        used = sum(len(codes[..., book].unique()) for book in range(len(sizes)))
        report["bits"] = torch.tensor(sizes).double().log2().sum().item()
        report["codes"], report["books"] = float(sum(sizes)), float(len(sizes))
        report["use"] = used / sum(sizes)
    return Latents(train=train, val=val, report=report)


def principal(pair: Pair, channels: int | None) -> Pair:
    """The leading principal axes of the training vectors; None, or as many as there are: unchanged."""
    train, val = pair
    if channels is None or channels >= train.shape[-1]:
        return pair
    moments = Moments.of(train)
    basis = torch.linalg.eigh(moments.covariance)[1].flip(1)[:, :channels].float()
    mean = moments.mean.float()
    return (train - mean) @ basis, (val - mean) @ basis


def train_codebook(quantizer: Quantizer, vectors: Tensor, table: TrainingConfig, seed: int) -> None:
    """Initialises a codebook by vectors (N, d) and trains it on batches of them that a seed draws."""
    order = row_rand(row_seeds(seed, torch.arange(len(vectors)))).argsort()
    quantizer.train().initialise(vectors[order[: table.initial]])
    for step in range(table.steps):
        seeds = row_seeds(1000 * (step + 1) + seed, torch.arange(table.batch))
        batch = vectors[(row_rand(seeds) * len(vectors)).long()]
        quantizer.after_step(quantizer(batch).tally, step)
    quantizer.eval()


def _branches(config: CellConfig, layers: Layers, seed: int) -> list[Pair]:
    train, val, dims = layers.train, layers.val, layers.dims
    match config.latent.of:
        case "deep":
            return [(train.patches.float(), val.patches.float())]
        case "mean":
            fusion = Fusion(config.mean, dims)
            seeds = row_seeds(seed, torch.arange(len(train.label)))
            fused = fusion.train()(_tokens(train), seeds), fusion.eval()(_tokens(val))
            return [(fused[0]["fused"][:, 0], fused[1]["fused"][:, 0])]
        case "shallow":
            return [_shallow(config.concat, train, val, dims)]
        case "both":
            return [
                (train.patches.float(), val.patches.float()),
                _shallow(config.concat, train, val, dims),
            ]
        case "residual":
            branch = ResidualBranch(config.residual, train, seed)
            return [
                (train.patches.float(), val.patches.float()),
                (branch.tokens(train), branch.tokens(val)),
            ]


def _shallow(table: FusionConfig, train: Split, val: Split, dims: Dims) -> Pair:
    """The shallow branch; principal axes are the projection that a tokenizer would train."""
    width = sum(dims.tap_width(layer) for layer in table.layers)
    fusion = Fusion(table.model_copy(update={"shallow": width}), dims)
    assert fusion.reduce is not None
    fusion.reduce.weight.copy_(torch.eye(width))
    taps = [fusion(_tokens(split))["shallow"][:, 0] for split in (train, val)]
    return principal((taps[0], taps[1]), table.shallow)


def _tokens(split: Split) -> Tokens:
    return Tokens(
        patches=split.patches[:, None].float(),
        grid=split.grid,
        layers={layer: tokens[:, None].float() for layer, tokens in split.layers.items()},
    )


def _scaled(pair: Pair) -> Pair:
    """Centered, with a total variance of 1."""
    train, val = pair
    moments = Moments.of(train, diagonal=True)
    mean, scale = moments.mean.float(), moments.covariance.sum().clamp(min=1e-12).rsqrt().float()
    return (train - mean) * scale, (val - mean) * scale


def _joined(pairs: list[Pair]) -> Pair:
    return torch.cat([train for train, _ in pairs], -1), torch.cat([val for _, val in pairs], -1)


def _codes(quantizer: Quantizer, vectors: Tensor) -> Tensor:
    """Codes (B, N, Q) of vectors (B, N, d)."""
    codes = torch.cat([quantizer(part).codes for part in vectors.flatten(0, 1).split(CHUNK)])
    return codes.unflatten(0, vectors.shape[:2])
