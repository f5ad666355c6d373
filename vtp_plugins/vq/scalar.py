"""Quantisers without a codebook: finite scalar quantisation, lookup-free and spherical binary codes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp_core.features import Tally
from vtp_core.ops import straight_through
from vtp_plugins.vq.config import BinaryConfig, FsqConfig
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.quantizer import Quantized, Quantizer, count_codes, finite, finite_mean, wide


class FsqQuantizer(Quantizer):
    """Rounds each bounded channel to one of its levels (Mentzer et al. 2023, arXiv 2309.15505).

    The first channel changes fastest in the index.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, config: FsqConfig) -> None:
        super().__init__()
        self.dim = len(config.levels)
        levels = torch.tensor(config.levels)
        basis = torch.cat([torch.ones(1, dtype=torch.int64), levels[:-1].cumprod(0)])
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        size = 1
        for level in config.levels:
            size *= level
        self.codebook_sizes = (size,)
        self.meters = Meters(size, window=config.window, alarm=config.alarm)

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim); codes have channels between -1 and 1."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            valid = finite(x)
            bounded = self._bound(torch.where(valid[:, None], x, 0))
            rounded = bounded.round()
            half = (self.levels // 2).to(x.dtype)
            index = torch.where(valid, ((rounded.detach() + half).long() * self.basis).sum(-1), -1)
            vectors = straight_through(bounded / half, rounded / half)
            return Quantized(
                vectors=torch.where(valid[:, None], vectors, torch.nan),
                codes=index[:, None],
                tally=Tally(
                    sums={"counts": count_codes(index, self.codebook_sizes[0])} if self.training else {}
                ),
                report=self.meters.report(),
            )

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., 1)."""
        digits = (codes.clamp(min=0) // self.basis) % self.levels
        half = self.levels // 2
        vectors = (digits - half).to(self.meters.counts.dtype) / half
        return torch.where(codes < 0, torch.nan, vectors)

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the meters."""
        self.meters.update(tally.sums["counts"].float(), index)

    def _bound(self, x: Tensor, eps: float = 1e-3) -> Tensor:
        """Channels in the range of their levels; of an even number of levels shifted by a half."""
        half = (self.levels - 1).to(x.dtype) * (1 + eps) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0).to(x.dtype)
        return (x + (offset / half).atanh()).tanh() * half - offset


class BinaryQuantizer(Quantizer):
    """The sign of each channel, most significant bit first.

    LFQ: Yu et al. 2023 (arXiv 2310.05737). BSQ: Zhao et al. 2024 (arXiv 2406.07548), on the unit sphere. The
    entropy term treats bits as independent, and takes the mean of earlier steps for "all vectors".
    """

    mask: Tensor
    mean: Tensor

    def __init__(self, config: BinaryConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.bits
        self.sphere = config.kind == "bsq"
        self.scale = config.bits**-0.5 if self.sphere else 1.0
        self.codebook_sizes = (2**config.bits,)
        self.register_buffer("mask", 2 ** torch.arange(config.bits - 1, -1, -1), persistent=False)
        self.register_buffer("mean", torch.full((config.bits,), 0.5))
        self.meters = Meters(2**config.bits, window=config.window, alarm=config.alarm)

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim); codes have channels of +-1, of BSQ +-dim^-0.5."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            valid = finite(x)
            x = torch.where(valid[:, None], x, 0)
            if self.sphere:
                x = F.normalize(x, dim=-1)
            bits = x > 0
            codes = torch.where(bits, self.scale, -self.scale).to(x.dtype)
            index = torch.where(valid, (bits * self.mask).sum(-1), -1)
            logit = 4 * x * self.scale / self.config.temperature
            p = logit.sigmoid()
            certain = F.binary_cross_entropy_with_logits(logit, p, reduction="none")  # entropy of each bit
            mean = self.mean.to(x.dtype).clamp(1e-6, 1 - 1e-6)
            even = p * mean.log() + (1 - p) * (1 - mean).log()
            term = finite_mean((certain + even).sum(-1), valid)
            return Quantized(
                vectors=torch.where(valid[:, None], straight_through(x, codes), torch.nan),
                codes=index[:, None],
                aux={
                    "commitment": self.config.commitment * finite_mean((x - codes).square(), valid),
                    "entropy": self.config.entropy * term,
                },
                tally=self._tally(index, p.detach(), valid) if self.training else Tally(),
                report=self.meters.report(),
            )

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., 1)."""
        bits = codes.clamp(min=0).bitwise_and(self.mask) != 0
        vectors = torch.where(bits, self.scale, -self.scale).to(self.mean.dtype)
        return torch.where(codes < 0, torch.nan, vectors)

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the meters and the bits' means."""
        self.meters.update(tally.sums["counts"].float(), index)
        step = tally.sums["bits"] / tally.sums["rows"].clamp(min=1)
        self.mean.lerp_(step.to(self.mean.dtype), 1 / self.config.window)

    def _tally(self, index: Tensor, p: Tensor, valid: Tensor) -> Tally:
        return Tally(
            sums={
                "counts": count_codes(index, self.codebook_sizes[0]),
                "bits": (p * valid[:, None]).sum(0),
                "rows": valid.sum().to(p.dtype),
            }
        )
