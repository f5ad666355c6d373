"""The guard: refuses steps with non-finite values and reports parameters that get no gradient.

Its inputs are reduced over ranks, so that every rank decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import Parameter

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import CheckpointError, NumericError, UsageError


class Guard:
    """Decides whether a step is made, and ends the run when too many in a row are skipped.

    A skipped step changes nothing: no parameter, moment, EMA copy, codebook or critic.
    """

    def __init__(self, max_skipped: int) -> None:
        """Starts without skipped steps.

        Args:
            max_skipped: Steps in a row that may be skipped (``run.max_skipped_steps``); one more
                ends the run.
        """
        self.max_skipped = max_skipped
        self.skipped_in_a_row = 0
        self.bottleneck_missed = 0
        """Steps in a row without the trained bottleneck's `after_step`."""
        self.last_checkpoint: str | None = None
        """Name of the newest good checkpoint, for the message; the loop sets it."""
        self._audited: set[str] = set()

    def state(self) -> dict[str, int]:
        """JSON data of a checkpoint, so that a restart does not begin to count again."""
        return {"skipped_in_a_row": self.skipped_in_a_row, "bottleneck_missed": self.bottleneck_missed}

    def resume(self, state: object, checkpoint: str) -> None:
        """Goes on from a checkpoint.

        Args:
            state: What `state` gave; an empty one of an earlier version counts from 0.
            checkpoint: Name of that checkpoint.

        Raises:
            CheckpointError: Not what `state` gives.
        """
        known = state if isinstance(state, dict) else {"skipped_in_a_row": None}
        skipped = known.get("skipped_in_a_row", 0)
        missed = known.get("bottleneck_missed", skipped)
        if type(skipped) is not int or type(missed) is not int or min(skipped, missed) < 0:
            raise CheckpointError(f"{checkpoint}: its manifest has no count of skipped steps, but {state!r}")
        self.skipped_in_a_row, self.bottleneck_missed = skipped, missed
        self.last_checkpoint = checkpoint

    def announce(self, bottleneck: Bottleneck, index: int) -> None:
        """Passes a trained bottleneck the range of steps that the next `after_step` covers."""
        if bottleneck.training:
            bottleneck.before_step(range(index - self.bottleneck_missed, index + 1))
            self.bottleneck_missed += 1  # until its `after_step` was called

    def check(self, objective: str, terms: Mapping[str, float | Tensor]) -> str | None:
        """Checks an objective's terms before their backward.

        Args:
            objective: Name of the objective.
            terms: Scalars, reduced over ranks.

        Returns:
            None if all are finite, else the reason to skip the step: the first term that is not.
        """
        for term, value in terms.items():
            number = float(value)
            if not math.isfinite(number):
                return f"loss {objective}/{term} is {number}"
        return None

    def check_gradients(self, norms: Mapping[str, float]) -> str | None:
        """Checks the owners' gradient norms before the optimiser.

        Args:
            norms: Owner -> norm before clipping, reduced over ranks.

        Returns:
            None if all are finite, else the reason to skip the step.
        """
        for owner, norm in norms.items():
            if not math.isfinite(norm):
                return f"gradient of {owner} has norm {norm}"
        return None

    def record(self, skipped: str | None, step: int) -> None:
        """Counts a step as made or skipped.

        Args:
            skipped: Why the step was skipped, or None if it was made.
            step: Its number, counted from 1 as in ``metrics.jsonl``.

        Raises:
            NumericError: More than `max_skipped` steps in a row were skipped.
        """
        if skipped is None:
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.max_skipped:
            last = self.last_checkpoint or "none yet"
            raise NumericError(
                f"step {step}: {skipped}; {self.skipped_in_a_row} steps in a row were skipped "
                f"(run.max_skipped_steps = {self.max_skipped}) and nothing was updated. "
                f"Last good checkpoint: {last}. "
                'Lower the learning rate or that objective\'s weight, or use run.precision = "float32"'
            )

    def audit(self, owner: str, parameters: Mapping[str, Parameter]) -> None:
        """Checks, at the first call for an owner, that all its trainable parameters have gradients.

        Call it after the backward passes of a step that the owner takes part in.

        Args:
            owner: Name of the owner.
            parameters: Full name -> parameter.

        Raises:
            UsageError: Some have none; names them.
        """
        if owner in self._audited:
            return
        self._audited.add(owner)
        idle = [name for name, value in parameters.items() if value.requires_grad and value.grad is None]
        if idle:
            more = f" and {len(idle) - 5} more" if len(idle) > 5 else ""
            raise UsageError(
                f"owner {owner}: no gradient reaches {', '.join(idle[:5])}{more}; "
                "freeze them (a rule with lr = 0), use them in a loss, or set run.audit_gradients = false"
            )
