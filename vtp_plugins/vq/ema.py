"""Codebook by exponential moving average, Euclidean or cosine.

Source: van den Oord et al. 2017 (VQ-VAE), appendix A.1, with Laplace smoothing; cosine as in Yu et al. 2022
(ViT-VQGAN).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp_core.features import Tally
from vtp_core.ops import code_statistics
from vtp_core.ops.nearest_code_choice import SearchChoice
from vtp_plugins.vq.config import EmaConfig
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.quantizer import (
    Quantized,
    Quantizer,
    mean_square,
    nearest,
    pick,
    unit,
    wide,
    with_gradient,
)
from vtp_plugins.vq.revival import revived


class EmaQuantizer(Quantizer):
    """Codes follow the mean of the vectors that choose them.

    State: `codebook` (K, D), smoothed counts `sizes` (K,) and sums `sums` (K, D). The quantised vectors are
    those before the step's update.

    Args:
        config: Its table.
        dim: Width of the vectors.
        metric_weight: (D,) weights of the squared distance, or None; not with cosine.
    """

    codebook: Tensor
    sizes: Tensor
    sums: Tensor
    metric_weight: Tensor | None

    def __init__(self, config: EmaConfig, dim: int, metric_weight: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.codebook_sizes = (config.codes,)
        self.samples = config.revive
        self.cosine = config.metric == "cosine"
        self.register_buffer("codebook", torch.empty(config.codes, dim))
        self.register_buffer("sizes", torch.ones(config.codes))
        self.register_buffer("sums", torch.empty(config.codes, dim))
        self.register_buffer("metric_weight", metric_weight)
        self.meters = Meters(config.codes, window=config.window, alarm=config.alarm)
        self._search: SearchChoice | None = None
        self._revives: bool | None = None  # whether the coming `after_step` revives; None: not told
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal codes of standard deviation dim^-0.5; data replaces them in `initialise`."""
        torch.nn.init.normal_(self.codebook, std=self.dim**-0.5)
        if self.cosine:
            self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        self.sums.copy_(self.codebook)

    def use_nearest_code(self, choice: SearchChoice) -> None:
        """Searches with the run's implementation."""
        self._search = choice

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim); the commitment loss pulls vectors to their codes."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            if self.cosine:
                x = unit(x)
            index = self.search(x.detach())
            codes = pick(self.codebook.to(x.dtype), index)
            valid = index >= 0
            factor = self.config.commitment
            error = mean_square((x if factor else x.detach()) - codes, valid)
            return Quantized(
                vectors=with_gradient(x, codes, self.config.through),
                codes=index[:, None],
                aux={"commitment": factor * error} if factor else {},
                tally=self._tally(x.detach(), index) if self.training else Tally(),
                report={"error": error.detach(), **self.meters.report()},
            )

    def search(self, x: Tensor) -> Tensor:
        """(N,) int64, the nearest code of each vector."""
        weight = None if self.metric_weight is None else self.metric_weight.to(x.dtype)
        return nearest(x, self.codebook.to(x.dtype), self._search, weight)

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., 1)."""
        return pick(self.codebook, codes[..., 0])

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Codes from the data, by the configured method; sums and counts with them."""
        vectors = wide(vectors)
        if self.cosine:
            vectors = F.normalize(vectors, dim=-1)
        make = kmeans if self.config.initialise == "kmeans" else data_rows
        self.set_codebook(make(vectors, self.config.codes))

    @torch.no_grad()
    def set_codebook(self, codebook: Tensor) -> None:
        """Replaces the codes (K, D); their statistics begin again with one vector each."""
        self.codebook.copy_(F.normalize(codebook, dim=-1) if self.cosine else codebook)
        self.sizes.fill_(1)
        self.sums.copy_(self.codebook)

    def before_step(self, steps: range) -> None:
        """Revives in steps that `revive_every` divides; where those were missed, in the next one."""
        self._revives = any(step % self.config.revive_every == 0 for step in reversed(steps))

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        """Moves the codes by the step's counts and sums, then revives dead ones."""
        counts, sums = tally.sums["counts"], tally.sums["sums"]
        rate = 1 - self.config.decay
        self.sizes.lerp_(counts.to(self.sizes.dtype), rate)
        self.sums.lerp_(sums.to(self.sums.dtype), rate)
        total = self.sizes.sum()
        smoothed = (self.sizes + self.config.eps) / (total + len(self.sizes) * self.config.eps) * total
        smoothed = smoothed.clamp(min=torch.finfo(self.sums.dtype).tiny)[:, None]
        if self.cosine:  # an unused code keeps its direction: its sum vanishes with time
            moved = F.normalize(self.sums / smoothed, dim=-1)
            self.codebook.copy_(torch.where((counts > 0)[:, None], moved, self.codebook))
        else:
            torch.div(self.sums, smoothed, out=self.codebook)
        self.meters.update(counts.float(), index)
        due = index % self.config.revive_every == 0 if self._revives is None else self._revives
        if self.config.revive and due:
            self._revive(tally.rows["vectors"].flatten(0, -2), index)

    def _revive(self, candidates: Tensor, index: int) -> None:
        """Dead: used less than `dead_below` of an even share, on the moving average."""
        even = self.sizes.sum() / len(self.sizes)
        candidates = wide(candidates).to(self.codebook.dtype)
        places, taken, vectors = revived(self.sizes < self.config.dead_below * even, candidates, index)
        for state, fresh in (
            (self.codebook, vectors),
            (self.sums, vectors * even),
            (self.sizes[:, None], even.expand(len(places), 1)),
        ):
            state.index_copy_(0, places, torch.where(taken[:, None], fresh, state[places]))

    def _tally(self, x: Tensor, index: Tensor) -> Tally:
        counts, sums = code_statistics(x, index, self.config.codes)
        sample = {"vectors": x} if self.samples and self._revives is not False else {}
        return Tally(sums={"counts": counts, "sums": sums}, rows=sample)
