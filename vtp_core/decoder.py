"""The decoder interface: a latent map to an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vtp_core.parameters import ParamRule, Resampler
from vtp_core.pixels import ValueRange


class Decoder(nn.Module):
    """Turns a latent map into an image. Constructed as ``Decoder(config, dims)``.

    Attributes:
        value_range: Range of the images it makes (`vtp_core.pixels`).
        has_strips: Whether it can run on strips of its maps, with the same result up to rounding.
        strip_rows: Rows of a strip, set by `Tokenizer.enable_tiling`; None: whole maps.
    """

    value_range: ValueRange
    has_strips: bool = False
    strip_rows: int | None = None

    def forward(self, z: Tensor) -> Tensor:
        """Decodes.

        Args:
            z: (B, d, h, w).

        Returns:
            (B, 3, H, W) in `value_range`, unclamped.
        """
        raise NotImplementedError

    def blocks(self) -> Sequence[nn.Module]:
        """Units of sharding, compiling and checkpointing, in order."""
        return ()

    def last_layer(self) -> nn.Module:
        """The last linear or convolutional layer, for adaptive weights through it."""
        raise NotImplementedError

    def rules(self) -> Sequence[ParamRule]:
        """Multipliers by parameter name; the first pattern that matches holds."""
        return ()

    def resamplers(self) -> Mapping[str, Resampler]:
        """Name of a parameter -> what fits one of another size, where ``init_from.resample`` asks for it."""
        return {}
