"""The `pca_vq` bottleneck: one codebook a branch, searched in the branch's principal axes."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Tally, Tokens
from vtp_core.math.moments import Moments
from vtp_core.parameters import Dims
from vtp_plugins.fusion.fusion import Fusion
from vtp_plugins.pca_vq.config import PcaVqConfig
from vtp_plugins.pca_vq.rate import split_bits
from vtp_plugins.pca_vq.rotated import RotatedQuantizer
from vtp_plugins.vq.product import ProductQuantizer
from vtp_plugins.vq.tokens import quantize_tokens, spread

_log = logging.getLogger(__name__)


class PcaVqBottleneck(Bottleneck):
    """Quantises each branch of a `Fusion`; calibrated on the features of training images."""

    def __init__(self, config: PcaVqConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.fusion = Fusion(config.fusion, dims)
        names = list(self.fusion.branches)
        if unknown := sorted(set(config.branches) - set(names)):
            raise UsageError(
                f"bottleneck.branches: {unknown[0]!r} is no branch; there are {', '.join(names)}"
            )
        self.layers, self.channels = self.fusion.layers, self.fusion.channels
        self.branch_channels = self.fusion.branches
        self.calibration_rows, self.sample_rows = config.calibration_rows, config.sample_rows
        quantizers = [
            RotatedQuantizer(config.branches.get(name, config.quantizer), width, name)
            for name, width in self.fusion.branches.items()
        ]
        self.quantizer = ProductQuantizer(quantizers, names)
        self.codebook_sizes = self.quantizer.codebook_sizes

    def branches(self) -> dict[str, RotatedQuantizer]:
        """Branch -> its quantiser."""
        parts = dict(zip(self.quantizer.names, self.quantizer.parts, strict=True))
        return {name: part for name, part in parts.items() if isinstance(part, RotatedQuantizer)}

    def forward(self, features: Features) -> Latent:
        """Codes of every branch and their vectors."""
        crops = {
            name: (self._joined(tokens, features.seeds), tokens.grid)
            for name, tokens in features.crops.items()
        }
        return quantize_tokens(self.quantizer, crops, self.config.sample_tokens)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """The latent map (B, d, h, w) of codes (B, Q, h, w)."""
        return self.quantizer.lookup(codes.movedim(1, -1)).movedim(-1, 1)

    def observe(self, features: Features) -> Tally:
        """Moments of every branch, and a sample of vectors."""
        found = self.fusion(features["global"], None)
        count = self.config.sample_tokens
        return Tally(
            moments={name: Moments.of(branch) for name, branch in found.items()},
            rows={name: spread(branch.flatten(1, 2), count) for name, branch in found.items()},
        )

    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        """Axes, weights and initial codebooks."""
        for name, quantizer in self.branches().items():
            quantizer.calibrate(tally.moments[name])
            quantizer.initialise(tally.rows[name].flatten(0, 1))
        branches = self.branches()
        total = sum(quantizer.bits for quantizer in branches.values())
        if len(branches) > 1:
            share = split_bits({name: q.variances.cpu() for name, q in branches.items()}, total)
            spent = ", ".join(
                f"{name} {bits:.1f} (has {branches[name].bits:.1f})" for name, bits in share.items()
            )
            _log.info("bottleneck: %.1f bits a position; by reverse water-filling %s", total, spent)

    def before_step(self, steps: range) -> None:
        """Whether dead codes are revived and axes measured."""
        self.quantizer.before_step(steps)

    def after_step(self, tally: Tally, index: int) -> None:
        """Codebooks, revival, meters, new axes."""
        self.quantizer.after_step(tally, index)

    def _joined(self, tokens: Tokens, seeds: Tensor | None) -> Tensor:
        return torch.cat(list(self.fusion(tokens, seeds).values()), -1)
