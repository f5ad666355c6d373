"""The objective interface: a trained signal. Read `vtp_plugins/clip/objective.py` for an example.

An objective names the views it needs and asks the step for forwards; `forward` is ordinary PyTorch. It does
not call the shared networks: the step runs them, once for all objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from vtp_core.config import ObjectiveConfig
from vtp_core.features import Losses, Tally
from vtp_core.parameters import Dims, ParamRule, Resampler
from vtp_core.step import Step
from vtp_core.view import ViewNeed


class Objective(nn.Module):
    """A trained signal. Constructed as ``Objective(config, dims)``.

    The module's own parameters (heads, a text tower, a diffusion transformer) are trained with it. They are
    sharded: child modules are units, the root holds only direct parameters, and none is 0-D.

    Attributes:
        teachers: Modules that need an EMA copy: own child modules (``"head"``) and shared networks
            (``"tokenizer.encoder"``, ``"tokenizer.bottleneck"``, ``"tokenizer.decoder"``).
        shares: Own child modules that other objectives may use through ``step.shared``.
        exports: Capability -> own child module or direct parameter, saved with the artefact.
        exports_teacher: Whether the exported child modules that have an EMA copy are saved as that copy.
        calibration_rows: Rows of its first view that `observe` needs before step 0; 0: no calibration.
    """

    teachers: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    exports: Mapping[str, str] = {}
    exports_teacher: bool = False
    calibration_rows: int = 0

    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims

    def views(self) -> Mapping[str, ViewNeed]:
        """View of the recipe -> what is asked of it."""
        return self.config.views()

    def forward(self, step: Step) -> Losses:
        """The losses of one step.

        Changes no state. The mean over ranks of each term is the global loss: use ``step.mean`` for masked
        or weighted means and ``step.gather`` for rows of other ranks. Every rank returns the same terms.
        """
        raise NotImplementedError

    def observe(self, step: Step) -> Tally:
        """Sums for `calibrate` of one batch, without gradient; asked only where `calibration_rows` is set.

        Args:
            step: As in `forward`; the tokenizer is in evaluation mode and its bottleneck calibrated.
        """
        raise NotImplementedError

    def calibrate(self, tally: Tally) -> None:
        """Sets state from the reduced tally, before step 0 and sharding; not if its state was loaded."""

    def warnings(self) -> Sequence[str]:
        """Lines for the log of a run that starts or goes on: settings that are known to work badly."""
        return ()

    def rules(self) -> Sequence[ParamRule]:
        """Multipliers by parameter name below this objective; the first pattern that matches holds."""
        return ()

    def resamplers(self) -> Mapping[str, Resampler]:
        """Name of a parameter -> what fits one of another size, where ``init_from.resample`` asks for it."""
        return {}

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates own state (a centre, a queue) from the step's reduced tally, the same on all ranks.

        Not called while the objective is frozen.
        """


class AdversarialObjective(Objective):
    """An objective with a critic, which has its own optimiser and trains after the main step.

    Attributes:
        critic: Replicated, frozen in `forward`; thawed for `critic_loss`.
    """

    critic: nn.Module

    def critic_loss(self, step: Step) -> Losses:
        """The critic's losses, on ``step.detached`` reconstructions; after the main optimiser step."""
        raise NotImplementedError

    def after_critic_step(self, tally: Tally | None, index: int) -> None:
        """Updates own state after the critic's update, from the reduced tally of `critic_loss`.

        The same on all ranks; not called for a skipped step.
        """
