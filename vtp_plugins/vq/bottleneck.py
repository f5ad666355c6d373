"""The `vq` bottleneck: a projection and a quantiser."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Tally
from vtp_core.parameters import Dims, ParamRule
from vtp_plugins.vq.build import build_quantizer, own_width
from vtp_plugins.vq.config import VqConfig
from vtp_plugins.vq.tokens import quantize_tokens, spread


class VqBottleneck(Bottleneck):
    """Quantises the projected patches of every crop set. The class token is not part of the latent."""

    def __init__(self, config: VqConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels or own_width(config.quantizer) or dims.width
        if not config.project and self.channels != dims.width:
            raise UsageError(
                f"bottleneck: project = false keeps the encoder's {dims.width} channels, and the latent has "
                f"{self.channels}; set project = true"
            )
        self.project = nn.Linear(dims.width, self.channels) if config.project else None
        try:
            self.quantizer = build_quantizer(config.quantizer, self.channels)
        except ValueError as error:
            raise UsageError(f"bottleneck: {error}") from None
        self.codebook_sizes = self.quantizer.codebook_sizes
        table = getattr(config.quantizer, "each", config.quantizer)
        from_data = getattr(table, "initialise", "random") != "random"
        self.calibration_rows = config.calibration_rows if from_data else 0
        self.sample_rows = max(config.sample_rows, self.calibration_rows)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal projection of standard deviation width^-0.5, bias zero."""
        if self.project is not None:
            nn.init.trunc_normal_(self.project.weight, std=self.project.in_features**-0.5)
            nn.init.zeros_(self.project.bias)

    def forward(self, features: Features) -> Latent:
        """Codes and their vectors for every crop set."""
        crops = {name: (self._latent(t.patches), t.grid) for name, t in features.crops.items()}
        return quantize_tokens(self.quantizer, crops, self.config.sample_tokens)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """The latent map (B, d, h, w) of codes (B, Q, h, w)."""
        return self.quantizer.lookup(codes.movedim(1, -1)).movedim(-1, 1)

    def observe(self, features: Features) -> Tally:
        """A sample of the vectors, for the initial codebook."""
        vectors = self._latent(features.patches).flatten(1, 2)
        return Tally(rows={"vectors": spread(vectors, self.config.sample_tokens)})

    def calibrate(self, tally: Tally) -> None:
        """The initial codebook."""
        self.quantizer.initialise(tally.rows["vectors"].flatten(0, 1))

    def before_step(self, steps: range) -> None:
        """Whether dead codes are revived."""
        self.quantizer.before_step(steps)

    def after_step(self, tally: Tally, index: int) -> None:
        """Codebook, revival, meters."""
        self.quantizer.after_step(tally, index)

    def rules(self) -> Sequence[ParamRule]:
        """No weight decay of codebooks: it would pull codes to the origin, not to their vectors."""
        return (ParamRule(pattern="quantizer.*", decay=0.0),)

    def _latent(self, patches: Tensor) -> Tensor:
        return patches if self.project is None else self.project(patches)
