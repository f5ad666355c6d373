"""Codebooks that learn by gradient descent: the codebook loss, and SimVQ."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.features import Tally
from vtp_core.ops.nearest_code_choice import SearchChoice
from vtp_plugins.vq.config import IbqConfig, LearnedConfig, SimVqConfig
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.quantizer import (
    Quantized,
    Quantizer,
    count_codes,
    mean_square,
    nearest,
    pick,
    unit,
    wide,
    with_gradient,
)


class LearnedQuantizer(Quantizer):
    """A trained codebook (K, D): codes are pulled to their vectors (van den Oord et al. 2017, equation 3)."""

    config: LearnedConfig | SimVqConfig | IbqConfig

    def __init__(self, config: LearnedConfig | SimVqConfig | IbqConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.codebook_sizes = (config.codes,)
        self.cosine = isinstance(config, LearnedConfig) and config.metric == "cosine"
        self.meters = Meters(config.codes, window=config.window, alarm=config.alarm)
        self._search: SearchChoice | None = None
        self.make_codebook()

    def make_codebook(self) -> None:
        """A trained table of normal codes."""
        self.table = nn.Parameter(torch.empty(self.config.codes, self.dim))
        nn.init.normal_(self.table, std=self.dim**-0.5)

    def use_nearest_code(self, choice: SearchChoice) -> None:
        """Searches with the run's implementation."""
        self._search = choice

    def codes_now(self) -> Tensor:
        """The codebook (K, D) with its gradient."""
        return F.normalize(self.table, dim=-1) if self.cosine else self.table

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim)."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            if self.cosine:
                x = unit(x)
            codebook = self.codes_now().to(x.dtype)
            index = nearest(x.detach(), codebook.detach(), self._search)
            codes, valid = pick(codebook, index), index >= 0
            error = mean_square(x.detach() - codes, valid)
            aux = {"codebook": self.config.codebook * error}
            if self.config.commitment:
                aux["commitment"] = self.config.commitment * mean_square(x - codes.detach(), valid)
            return Quantized(
                vectors=with_gradient(x, codes, self.config.through),
                codes=index[:, None],
                aux=aux,
                tally=self.counted(index),
                report={"error": error.detach(), **self.meters.report()},
            )

    def counted(self, index: Tensor) -> Tally:
        """How often each code is in (N,) int64, in training."""
        return Tally(sums={"counts": count_codes(index, self.config.codes)}) if self.training else Tally()

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., 1)."""
        with torch.autocast(codes.device.type, enabled=False):
            return pick(self.codes_now(), codes[..., 0])

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Codes from the data, by the configured method."""
        vectors = wide(vectors)
        if self.cosine:
            vectors = F.normalize(vectors, dim=-1)
        make = kmeans if self.config.initialise == "kmeans" else data_rows
        self.table.copy_(make(vectors, self.config.codes))

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the meters; codes are trained by the optimiser."""
        self.meters.update(tally.sums["counts"].float(), index)


class SimVqQuantizer(LearnedQuantizer):
    """Frozen random codes under one trained matrix, which moves all of them (Zhu et al., 2411.02038)."""

    def make_codebook(self) -> None:
        """A frozen table and the identity."""
        self.register_buffer("table", torch.empty(self.config.codes, self.dim))
        nn.init.normal_(self.table, std=self.dim**-0.5)
        self.matrix = nn.Linear(self.dim, self.dim, bias=False)
        nn.init.eye_(self.matrix.weight)

    def codes_now(self) -> Tensor:
        """The transformed codes (K, D)."""
        moved: Tensor = self.matrix(self.table)
        return moved
