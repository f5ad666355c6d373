"""Trains a codebook on vectors, and measures it on others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.study_pca_vq.config import CellConfig
from vtp_core.math.moments import Moments
from vtp_core.math.row_noise import row_rand, row_randn, row_seeds
from vtp_plugins.pca_vq.axes import effective_dimensions, explained_rank
from vtp_plugins.pca_vq.rotated import RotatedQuantizer

CHUNK = 8192
"""Vectors that are searched at once."""
TOP = 0.9
"""Variance of the axes whose error stands beside the whole error."""


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """A trained codebook over the leading axes of the vectors.

    Attributes:
        quantizer: It.
        basis: (D, d) the axes that there are; d = D where none are left out.
        mean: (D,).
    """

    quantizer: RotatedQuantizer
    basis: Tensor
    mean: Tensor

    def quantise(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N,) of vectors (N, D), and the vectors that they stand for."""
        codes = torch.cat([self.quantizer(self.projected(part)).codes for part in vectors.split(CHUNK)])
        return codes[:, 0], self.quantizer.lookup(codes) @ self.basis.T + self.mean

    def projected(self, vectors: Tensor) -> Tensor:
        """(N, d) of (N, D)."""
        return (vectors - self.mean) @ self.basis


@torch.no_grad()
def train_codebook(config: CellConfig, vectors: Tensor, seed: int) -> Codebook:
    """A codebook trained on vectors (N, D) as the bottleneck `pca_vq` does it; a seed draws the batches."""
    table, training = config.codebook, config.training
    mean, width = vectors.mean(0), vectors.shape[1]
    basis = torch.eye(width)
    if config.dimensions is not None and config.dimensions < width:
        moments = Moments.of(vectors)
        basis = torch.linalg.eigh(moments.covariance)[1].flip(1)[:, : config.dimensions].float()
    vectors = (vectors - mean) @ basis
    start = training.initialise if training.initialise != "normal" else "random"
    table = table.model_copy(update={"codebook": table.codebook.model_copy(update={"initialise": start})})
    torch.manual_seed(seed)  # codes as networks are initialised
    quantizer = RotatedQuantizer(table, vectors.shape[1], "features")
    quantizer.calibrate(Moments.of(vectors))
    codes = table.codebook.codes
    if training.initialise == "normal":
        noise = row_randn(row_seeds(seed, torch.arange(codes)), vectors.shape[1])
        quantizer.set_codebook(noise * quantizer.variances.sqrt())
    elif training.initialise != "random":
        count = min(max(training.initial, 2 * codes), len(vectors))
        order = row_rand(row_seeds(seed, torch.arange(len(vectors)))).argsort()
        quantizer.initialise(vectors[order[:count]])
    for step in range(training.steps):
        batch = vectors[_places(1000 * (step + 1) + seed, training.batch, len(vectors))]
        quantizer.after_step(quantizer(batch).tally, step)
    return Codebook(quantizer=quantizer.eval(), basis=basis, mean=mean)


@torch.no_grad()
def measure_codebook(book: Codebook, vectors: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The vectors (N, D) quantised, and what shows on them: use, perplexity, spread of distances, errors.

    Errors are fractions of the training vectors' variance.
    """
    codes, quantised = book.quantise(vectors)
    quantizer = book.quantizer
    counts = torch.bincount(codes, minlength=quantizer.config.codes).double()
    p = counts / counts.sum()
    entropy = -torch.xlogy(p, p).sum().item()
    projected = book.projected(vectors)
    difference = (projected - book.projected(quantised)) @ quantizer.vectors
    left_out = (vectors - book.mean).square().sum(-1) - projected.square().sum(-1)
    error, total = difference.square().sum(-1), (vectors - book.mean).square().sum(-1).mean()
    top = explained_rank(quantizer.variances, TOP)
    half = len(vectors) // 2
    apart = ((projected[:half] - projected[-half:]) @ quantizer.vectors).square()
    distance = (apart * quantizer.weights).sum(-1)
    d_eff = effective_dimensions(quantizer.variances, quantizer.weights).item()
    return quantised, {
        "use": (counts > 0).double().mean().item(),
        "perplexity": math.exp(entropy),
        "entropy_share": entropy / math.log(len(counts)) if len(counts) > 1 else 1.0,
        "axes": float(quantizer.rank),
        "d_eff": d_eff,
        "spread": math.sqrt(2 / d_eff),
        "measured_spread": (distance.std() / distance.mean()).item(),
        "error": ((error + left_out).mean() / total).item(),
        "error_top": (difference[:, :top].square().sum(-1).mean() / quantizer.variances[:top].sum()).item(),
        "above_bound_db": 10 * math.log10(error.mean().item() / quantizer.bound.item()),
    }


def _places(seed: int, count: int, total: int) -> Tensor:
    """(count,) places of `total` that a seed draws."""
    return (row_rand(row_seeds(seed, torch.arange(count))) * total).long()
