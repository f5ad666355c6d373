"""The bottleneck interface: features to a latent, continuous or discrete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vtp_core.config import ComponentConfig
from vtp_core.features import Features, Latent, Tally
from vtp_core.parameters import ParamRule


class Bottleneck(nn.Module):
    """Turns features into a latent. Constructed as ``Bottleneck(config, dims)``.

    Attributes:
        channels: Latent channels d.
        codebook_sizes: Codes of each codebook; empty if the latent is continuous.
        layers: Encoder blocks that it taps besides the last one.
        branch_channels: Branch of the latent -> its channels, in order; empty: the latent has no branches.
        calibration_rows: Samples that `observe` needs before step 0; 0: no calibration.
        sample_rows: Global rows of a call whose `Tally.rows` are kept; over a calibration, in all.
        table: The table that it was built from; the core sets it.
    """

    channels: int
    codebook_sizes: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    branch_channels: Mapping[str, int] = {}
    calibration_rows: int = 0
    sample_rows: int = 64
    table: ComponentConfig | None = None

    def forward(self, features: Features) -> Latent:
        """Latent tokens of every crop set, class token included if the encoder has one.

        Changes no state: statistics go into `Latent.tally`.

        Args:
            features: Tokens of width D, rows first.
        """
        raise NotImplementedError

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Latent map of codes.

        Args:
            codes: (B, Q, h, w) int64, one index per codebook.

        Returns:
            (B, d, h, w).

        Raises:
            TypeError: The latent is continuous.
        """
        raise TypeError(f"{type(self).__name__} has no codebook")

    def decoder_input(self, z: Tensor, seeds: Tensor) -> Tensor:
        """The latent map as the decoder sees it in a training step, such as with noise; else it sees `z`.

        Uses no parameter. Called for frozen bottlenecks too.

        Args:
            z: (B, d, h, w).
            seeds: (B,) int64, for `row_randn` and `row_rand`.
        """
        return z

    def observe(self, features: Features) -> Tally | None:
        """Sums for `calibrate` of one batch; None: it needs no calibration."""
        return None

    def calibrate(self, tally: Tally) -> None:
        """Sets state from the reduced tally, before step 0 and sharding; not if its state was loaded."""

    def before_step(self, steps: range) -> None:
        """What the coming `after_step` makes up for, so that `forward` puts into the tally what that needs.

        Called before each training step, not while the bottleneck is frozen. Sets no state that is saved.

        Args:
            steps: The coming step and, before it, those since the last `after_step`: they were skipped, or
                no objective asked for the latent. What was due in one of them is due now.
        """

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates state (codebook EMA, revival) from the step's reduced tally, the same on all ranks.

        Not called while the bottleneck is frozen, nor for a skipped step or one without tally.
        """

    def rules(self) -> Sequence[ParamRule]:
        """Multipliers by parameter name; the first pattern that matches holds."""
        return ()
