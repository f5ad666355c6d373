"""The main optimiser: AdamW over every trainable parameter, with multipliers by owner and by rule.

An *owner* (encoder, bottleneck, decoder, an objective, a critic) holds parameters that share overrides and a
gradient norm. Parameters with equal multipliers share a group of `torch.optim.AdamW`. Works alike on plain
tensors and on FSDP2's DTensors, mixed or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from vtp_core.errors import UsageError
from vtp_core.schedule import Scheduled, value_at
from vtp_core.training.optim.clipping import Clipped, clip_gradients
from vtp_core.training.optim.owners import Owner, freeze
from vtp_core.training.ranks.shards import local

if TYPE_CHECKING:
    from vtp_core.recipe.tables.optimizer import OptimizerConfig

__all__ = ["MainOptimizer", "Owner", "RuleRow", "build_optimizer", "freeze"]

_STATES = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class RuleRow:
    """A line of the table of `MainOptimizer.describe`: the parameters of an owner that are treated alike.

    Attributes:
        owner: The owner's name.
        pattern: The rule's pattern; ``*`` where no rule holds.
        tensors: Number of parameters.
        elements: Number of their elements, over all ranks.
        lr: Factor on the learning rate, overrides included; a schedule stands as it is, without them.
        decay: Factor on the weight decay.
        frozen: Whether they are not trained.
        clamp: Bounds after each step, or None.
    """

    owner: str
    pattern: str
    tensors: int
    elements: int
    lr: Scheduled
    decay: float
    frozen: bool
    clamp: tuple[float, float] | None


class MainOptimizer:
    """AdamW over the owners' parameters; build it with `build_optimizer`, after sharding.

    Every trainable parameter has its state (``exp_avg``, ``exp_avg_sq``, ``step``) from the start, so that
    checkpoints hold the same names at every step. A parameter without gradient is left alone.
    """

    def __init__(self, owners: Sequence[Owner], config: OptimizerConfig, total_steps: int) -> None:
        self.owners = tuple(owners)
        self.config = config
        self.total_steps = total_steps
        self.lr = math.nan
        """The base learning rate of the last `set_schedules`, before multipliers."""
        self._trained = {owner.name: owner.trained() for owner in self.owners}
        self._check_single_owner()
        self._names: dict[str, Parameter] = {}
        self._clamps: list[tuple[Parameter, tuple[float, float]]] = []
        groups: dict[object, dict[str, Any]] = {}
        for owner in self.owners:
            for name, parameter in self._trained[owner.name].items():
                lr, decay, rule = owner.lr(name), owner.decay(name), owner.rule(name)
                # Fused kernels take either plain tensors or DTensors of one mesh, never a mix.
                layout = parameter.device_mesh if isinstance(parameter, DTensor) else None
                factors = {"lr_rule": lr, "lr_factor": owner.overrides.lr, "decay_factor": decay}
                group = groups.setdefault((*factors.values(), layout), {"params": [], **factors})
                group["params"].append(parameter)
                self._names[f"optimizer.{owner.name}.{owner.below(name)}"] = parameter
                if rule is not None and rule.clamp is not None:
                    self._clamps.append((parameter, rule.clamp))
        devices = {parameter.device.type for parameter in self._names.values()}
        self._fused = devices <= {"cpu", "cuda"}
        # AdamW refuses an empty list; a recipe may freeze everything but a critic.
        self._adamw = torch.optim.AdamW(
            list(groups.values()) or [{"params": [], "lr_rule": 1.0, "lr_factor": 1.0, "decay_factor": 1.0}],
            lr=0.0,
            betas=config.betas,
            eps=config.eps,
            fused=self._fused or None,
            foreach=None if self._fused else True,
        )
        for parameter in self._names.values():
            step_device = parameter.device if self._fused else torch.device("cpu")
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=step_device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        self.set_schedules(0)

    def _check_single_owner(self) -> None:
        seen: dict[int, str] = {}
        for owner, parameters in self._trained.items():
            for name, parameter in parameters.items():
                if id(parameter) in seen:
                    raise UsageError(
                        f"parameter {name} of owner {owner} is already trained as {seen[id(parameter)]}: "
                        "a parameter has exactly one owner, let the others use it through step.shared"
                    )
                seen[id(parameter)] = f"{name} of {owner}"

    def set_schedules(self, index: int) -> None:
        """Sets learning rates and weight decays for step `index` (0-based)."""
        self.lr = value_at(self.config.lr, index, self.total_steps)
        weight_decay = value_at(self.config.weight_decay, index, self.total_steps)
        for group in self._adamw.param_groups:
            factor = value_at(group["lr_rule"], index, self.total_steps) * group["lr_factor"]
            group["lr"] = self.lr * factor
            group["weight_decay"] = weight_decay * group["decay_factor"]

    def clip(self, scope: Literal["global", "owner"] | None = None) -> Clipped:
        """Scales gradients to the recipe's ``optimizer.clip``; measures norms even if that is None.

        Args:
            scope: One norm over all owners, or one an owner; None takes the recipe's ``clip_scope``.

        Returns:
            Norms before clipping and factors. Gradients of a non-finite norm are left as they are.
        """
        gradients = {
            owner: [(parameter, parameter.grad) for parameter in parameters.values()]
            for owner, parameters in self._trained.items()
        }
        return clip_gradients(gradients, self.config.clip, scope or self.config.clip_scope)

    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        self._adamw.step()

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamps the parameters whose rule bounds them (CLIP's logit scale, for one)."""
        for parameter, (low, high) in self._clamps:
            local(parameter).clamp_(low, high)

    def zero_grad(self) -> None:
        """Drops the gradients of all owners' parameters."""
        for owner in self.owners:
            for parameter in owner.parameters.values():
                parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state by name, ``optimizer.<owner>.<parameter>.<exp_avg | exp_avg_sq | step>``."""
        return {
            f"{name}.{key}": self._adamw.state[parameter][key]
            for name, parameter in self._names.items()
            for key in _STATES
        }

    def describe(self) -> list[RuleRow]:
        """How parameters are treated: one row an owner and pattern, in order; for ``vtp plan``."""
        rows: dict[tuple[object, ...], RuleRow] = {}
        for owner in self.owners:
            for name, parameter in owner.parameters.items():
                rule, lr = owner.rule(name), owner.lr(name)
                row = RuleRow(
                    owner=owner.name,
                    pattern="*" if rule is None else rule.pattern,
                    tensors=1,
                    elements=parameter.numel(),
                    lr=lr * owner.overrides.lr if isinstance(lr, int | float) else lr,
                    decay=owner.decay(name),
                    frozen=name not in self._trained[owner.name],
                    clamp=None if rule is None else rule.clamp,
                )
                key = (row.owner, row.pattern, row.lr, row.decay, row.frozen)
                if (before := rows.get(key)) is not None:
                    row = replace(row, tensors=before.tensors + 1, elements=before.elements + row.elements)
                rows[key] = row
        return list(rows.values())


def build_optimizer(owners: Sequence[Owner], config: OptimizerConfig, total_steps: int) -> MainOptimizer:
    """Freezes what rules freeze and builds the optimiser of the rest.

    Args:
        owners: In the order of their names in logs; critics get an optimiser of their own,
            built before they are frozen for the main pass.
        config: The recipe's ``[optimizer]``.
        total_steps: Steps of the run, for schedules.

    Raises:
        UsageError: A parameter has two owners.
    """
    freeze(owners)
    return MainOptimizer(owners, config, total_steps)
