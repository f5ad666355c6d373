"""An EMA codebook in the principal axes of its vectors: stored rotated and unweighted, searched weighted."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from vtp_core.features import Tally
from vtp_core.math.moments import Moments
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.ops import code_statistics
from vtp_plugins.pca_vq.axes import effective_dimensions, principal_axes, search_weights
from vtp_plugins.pca_vq.config import BranchConfig
from vtp_plugins.pca_vq.rate import water_filling
from vtp_plugins.vq.ema import EmaQuantizer
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.quantizer import Quantized, finite, mean_square, nearest, pick, wide, with_gradient

_log = logging.getLogger(__name__)


class RotatedQuantizer(EmaQuantizer):
    """Quantises y = U^T (x - mean); the search weights axes and leaves out those of weight 0.

    Codes are means of y at full width, so axes that the search leaves out decode to their code's mean. State
    besides that of `EmaQuantizer`: `mean` (D,), `vectors` U (D, D), `variances` and `weights` (D,), `rank`;
    `bound`, the Gaussian bound of the squared error, and `distortion`, recent squared errors and vectors.

    Args:
        config: The branch's table.
        dim: Width D of its vectors.
        name: Of the branch, for messages.
    """

    mean: Tensor
    vectors: Tensor
    variances: Tensor
    weights: Tensor
    rank: Tensor
    bound: Tensor
    distortion: Tensor

    def __init__(self, config: BranchConfig, dim: int, name: str) -> None:
        super().__init__(config.codebook, dim)
        self.branch, self.name = config, name
        self.meters.name = f"codebook {name}"
        self.bits = math.log2(config.codebook.codes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("vectors", torch.eye(dim))
        self.register_buffer("variances", torch.ones(dim))
        self.register_buffer("weights", torch.ones(dim))
        self.register_buffer("rank", torch.tensor([dim]))
        self.register_buffer("bound", torch.ones(1))
        self.register_buffer("distortion", torch.zeros(2))
        self._rank = (self.rank, self.rank._version, dim)  # the value that the tensor had at that version
        self._measures: bool | None = None  # whether the coming `after_step` renews the axes; None: not told

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            y = self._rotate(x.detach())
            index = self.search(y)
            codes, valid = self._decode(pick(self.codebook.to(x.dtype), index)), index >= 0
            factor = self.config.commitment
            error = mean_square((x if factor else x.detach()) - codes, valid)
            tally = Tally()
            if self.training:
                own = self._tally(y, index)
                count = valid.sum().to(error.dtype)
                spent = torch.stack([error.detach() * self.dim * count, count])
                measured = self.branch.recalibrate and self._measures is not False
                moments = {"x": Moments.of(x)} if measured else {}
                tally = Tally(sums={**own.sums, "distortion": spent}, rows=own.rows, moments=moments)
            recent = self.distortion[0] / self.distortion[1].clamp(min=1)
            ratio = (recent if self.training else error.detach() * self.dim) / self.bound[0]
            return Quantized(
                vectors=with_gradient(x, codes, self.config.through),
                codes=index[:, None],
                aux={"commitment": factor * error} if factor else {},
                tally=tally,
                report={
                    "error": error.detach(),
                    "above_bound_db": 10 * torch.log10(ratio.clamp(min=1e-30)),
                    "d_eff": effective_dimensions(self.variances, self.weights),
                    **self.meters.report(),
                },
            )

    def search(self, x: Tensor) -> Tensor:
        """(N,) int64: the nearest code of rotated vectors, along the axes that the mode keeps."""
        rank = self._axes()
        weight = self.weights[:rank].to(x.dtype)
        return nearest(x[:, :rank], self.codebook[:, :rank].to(x.dtype), self._search, weight)

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., D) of codes (..., 1)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode(pick(self.codebook, codes[..., 0]))

    @torch.no_grad()
    def calibrate(self, moments: Moments) -> None:
        """Sets the axes and their weights; a codebook that is there is rotated along."""
        axes = principal_axes(moments, f"bottleneck branch {self.name!r}")
        codes = self.codebook.double() @ self.vectors.double().T + self.mean.double()
        weights = search_weights(axes.variances, self.branch.axes, self.bits)
        if moments.count <= self.dim:
            _log.warning(
                "bottleneck branch %r: %d vectors of width %d; calibrate on more images, its axes are noise",
                self.name,
                int(moments.count),
                self.dim,
            )
        self.mean.copy_(axes.mean)
        self.vectors.copy_(axes.vectors)
        self.variances.copy_(axes.variances)
        self.weights.copy_(weights)
        self.rank.fill_(int((weights > 0).sum()))
        self.bound.fill_(
            max(water_filling(axes.variances.cpu(), self.bits)[0], torch.finfo(torch.float32).tiny)
        )
        rotated = (codes - axes.mean) @ axes.vectors
        self.codebook.copy_(rotated)
        self.sums.copy_(rotated * self.sizes[:, None])
        _log.info("bottleneck branch %s: %s", self.name, self.summary())

    def summary(self) -> str:
        """Width, axes of the search and effective dimensions, in words."""
        plain = effective_dimensions(self.variances).item()
        weighted = effective_dimensions(self.variances, self.weights).item()
        return (
            f"width {self.dim}, {int(self.rank)} axes searched, effective dimensions {plain:.1f} plain, "
            f"{weighted:.1f} as searched; distances spread by {math.sqrt(2 / weighted):.2f} of their mean"
        )

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Codes from vectors (N, D) of the data: clustered as the search sees them, means at full width."""
        y = self._rotate(wide(vectors))
        y = y[finite(y)]
        self._initialise(y)
        error = y - self._rotate(self._decode(pick(self.codebook.to(y.dtype), self.search(y))))
        self.distortion.copy_(torch.stack([error.square().sum(), error.new_tensor(len(y))]))

    def _initialise(self, y: Tensor) -> None:
        scale = self.weights.to(y.dtype).sqrt()
        seen = (y * scale)[:, : self._axes()]
        if self.config.initialise == "random":  # of the data's deviation along each axis
            numbers = torch.arange(self.config.codes, device=y.device)
            normal = row_randn(row_seeds(0, numbers), self.dim, dtype=y.dtype)
            self.set_codebook(normal * self.variances.to(y.dtype).sqrt())
            return
        if self.config.initialise == "data":
            self.set_codebook(data_rows(y, self.config.codes))
            return
        centers = kmeans(seen, self.config.codes)
        index = nearest(seen, centers, self._search)
        counts, sums = code_statistics(y, index, len(centers))
        means = sums.to(y.dtype) / counts.clamp(min=1).to(y.dtype)[:, None]
        lone = torch.zeros_like(means)
        lone[:, : centers.shape[1]] = centers / scale[: centers.shape[1]]
        self.set_codebook(torch.where((counts > 0)[:, None], means, lone))

    def before_step(self, steps: range) -> None:
        """As of any codebook; measures the axes again in the steps of `recalibrate`, or in the next one."""
        super().before_step(steps)
        self._measures = any(step in steps for step in self.branch.recalibrate)

    def after_step(self, tally: Tally, index: int) -> None:
        """Codebook, revival, meters, and new axes where they are due."""
        super().after_step(tally, index)
        spent = tally.sums["distortion"].to(self.distortion.dtype)
        self.distortion.mul_(1 - 1 / self.config.window).add_(spent)
        if index in self.branch.recalibrate if self._measures is None else self._measures:
            self.calibrate(tally.moments["x"])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.rank.is_meta:
            self._axes()

    def _rotate(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)) @ self.vectors.to(x.dtype)

    def _decode(self, codes: Tensor) -> Tensor:
        if self.branch.decode == "subspace":
            codes = codes * (self.weights > 0)
        return codes @ self.vectors.to(codes.dtype).T + self.mean.to(codes.dtype)

    def _axes(self) -> int:
        """`rank` as a number; read from the device only when it changed, and not while it is traced."""
        tensor, version, value = self._rank
        if torch.compiler.is_compiling():
            return value
        now = -1 if self.rank.is_inference() else self.rank._version
        if self.rank is not tensor or now != version or now == -1:
            self._rank = (self.rank, now, int(self.rank))
        return self._rank[2]
