"""The main optimiser: an algorithm over every trainable parameter, with factors by owner and by rule.

An *owner* (encoder, bottleneck, decoder, an objective, a critic) holds parameters that share overrides and a
gradient norm. Parameters with equal factors share a parameter group. Works alike on plain tensors and on
FSDP2's DTensors, mixed or not.
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
from vtp_core.training.optim.algorithm import OptimizerAlgorithm, find_algorithm
from vtp_core.training.optim.clipping import Clipped, clip_gradients
from vtp_core.training.optim.owners import Owner, freeze
from vtp_core.training.ranks.shards import local

if TYPE_CHECKING:
    from vtp_core.config import OptimizerConfig
    from vtp_core.plugins import Plugins

__all__ = ["MainOptimizer", "Owner", "RuleRow", "build_optimizer", "freeze"]


@dataclass(frozen=True, kw_only=True)
class RuleRow:
    """A row of `MainOptimizer.describe`: parameters of an owner with the same settings.

    Attributes:
        owner: The owner's name.
        pattern: The rule's pattern; ``*`` where no rule matches.
        method: How the algorithm moves them, such as ``adamw``.
        tensors: Number of parameters.
        elements: Number of their elements, over all ranks.
        lr: Factor on the learning rate, overrides included; a schedule is shown without them.
        decay: Factor on the weight decay.
        frozen: Whether they are not trained.
        clamp: Bounds after each step, or None.
    """

    owner: str
    pattern: str
    method: str
    tensors: int
    elements: int
    lr: Scheduled
    decay: float
    frozen: bool
    clamp: tuple[float, float] | None


class MainOptimizer:
    """An algorithm over the owners' parameters; build it with `build_optimizer`, after sharding.

    Every trainable parameter has its state from the start, so that checkpoints hold the same names at every
    step. A parameter without gradient is left alone.
    """

    def __init__(self, owners: Sequence[Owner], algorithm: OptimizerAlgorithm, total_steps: int) -> None:
        self.owners = tuple(owners)
        self.config = algorithm.config
        self.total_steps = total_steps
        self.lr = math.nan
        """The base learning rate of the last `set_schedules`, before factors."""
        self._algorithm = algorithm
        self._trained = {owner.name: owner.trained() for owner in self.owners}
        self._check_single_owner()
        self._names: dict[str, Parameter] = {}
        self._clamps: list[tuple[Parameter, tuple[float, float]]] = []
        groups: dict[str, dict[object, dict[str, Any]]] = {}
        for owner in self.owners:
            for name, parameter in self._trained[owner.name].items():
                rule = owner.rule(name)
                # Fused kernels take either plain tensors or DTensors of one mesh, never a mix.
                layout = parameter.device_mesh if isinstance(parameter, DTensor) else None
                factors = {
                    "lr_rule": owner.lr(name),
                    "lr_factor": owner.overrides.lr,
                    "decay_factor": owner.decay(name),
                }
                alike = groups.setdefault(self._method(owner, name), {})
                group = alike.setdefault((*factors.values(), layout), {"params": [], **factors})
                group["params"].append(parameter)
                self._names[f"optimizer.{owner.name}.{owner.below(name)}"] = parameter
                if rule is not None and rule.clamp is not None:
                    self._clamps.append((parameter, rule.clamp))
        self._optimizers = {
            method: algorithm.build(method, list(found.values())) for method, found in groups.items()
        }
        self._states: dict[Parameter, dict[str, Tensor]] = {}
        for method, optimizer in self._optimizers.items():
            for parameter in (each for group in optimizer.param_groups for each in group["params"]):
                self._states[parameter] = optimizer.state[parameter] = algorithm.state(method, parameter)
        self._state_names = frozenset(self.state_tensors())
        self.set_schedules(0)

    def _method(self, owner: Owner, name: str) -> str:
        return self._algorithm.method(owner.parameters[name], in_block=name in owner.in_blocks)

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
        for method, optimizer in self._optimizers.items():
            lr = value_at(self._algorithm.lr(method), index, self.total_steps)
            for group in optimizer.param_groups:
                factor = value_at(group["lr_rule"], index, self.total_steps) * group["lr_factor"]
                group["lr"] = lr * factor
                group["weight_decay"] = weight_decay * group["decay_factor"]

    def clip(self, scope: Literal["global", "owner"] | None = None) -> Clipped:
        """Scales gradients to the recipe's ``optimizer.clip``; measures norms even if that is None.

        Args:
            scope: One norm over all owners, or one per owner; None takes the recipe's ``clip_scope``.

        Returns:
            Norms before clipping and factors. Gradients of a non-finite norm are left as they are.
        """
        gradients = {
            owner: [(parameter, parameter.grad) for parameter in parameters.values()]
            for owner, parameters in self._trained.items()
        }
        return clip_gradients(gradients, self.config.clip, scope or self.config.clip_scope)

    def step(self) -> None:
        """Updates every parameter that has a gradient.

        Raises:
            UsageError: The algorithm keeps state that it did not create at the start.
        """
        for optimizer in self._optimizers.values():
            optimizer.step()
        if sum(map(len, self._states.values())) != len(self._state_names):
            late = sorted(self.state_tensors().keys() ^ self._state_names)[0]
            raise UsageError(
                f"{late} was created or dropped by the first step of {type(self._algorithm).__name__}: "
                "its method `state` must return the whole state of a parameter"
            )

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
        """Live state tensors by name, ``optimizer.<owner>.<parameter>.<key>``; keys are the algorithm's."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self._names.items()
            for key, tensor in self._states[parameter].items()
        }

    def state_bytes(self) -> dict[str, int]:
        """Owner -> bytes of its state, shards of other ranks included."""
        return {
            owner: sum(x.numel() * x.element_size() for p in found.values() for x in self._states[p].values())
            for owner, found in self._trained.items()
        }

    def describe(self) -> list[RuleRow]:
        """Settings of the parameters, one row per owner and pattern, in order; for ``vtp plan``."""
        rows: dict[tuple[object, ...], RuleRow] = {}
        for owner in self.owners:
            for name, parameter in owner.parameters.items():
                rule, lr = owner.rule(name), owner.lr(name)
                row = RuleRow(
                    owner=owner.name,
                    pattern="*" if rule is None else rule.pattern,
                    method=self._method(owner, name),
                    tensors=1,
                    elements=parameter.numel(),
                    lr=lr * owner.overrides.lr if isinstance(lr, int | float) else lr,
                    decay=owner.decay(name),
                    frozen=name not in self._trained[owner.name],
                    clamp=None if rule is None else rule.clamp,
                )
                key = (row.owner, row.pattern, row.method, row.lr, row.decay, row.frozen)
                if (before := rows.get(key)) is not None:
                    row = replace(row, tensors=before.tensors + 1, elements=before.elements + row.elements)
                rows[key] = row
        return list(rows.values())


def build_optimizer(
    owners: Sequence[Owner],
    config: OptimizerConfig,
    total_steps: int,
    plugins: Plugins | None = None,
) -> MainOptimizer:
    """Freezes what rules freeze and builds the optimiser of the rest.

    Args:
        owners: In the order of their names in logs; critics get an optimiser of their own,
            built before they are frozen for the main pass.
        config: The recipe's ``[optimizer]``.
        total_steps: Steps of the run, for schedules.
        plugins: Where its algorithm is looked up; None: only the core's own.

    Raises:
        UsageError: A parameter has two owners, or the algorithm is unknown or can't move it.
    """
    freeze(owners)
    return MainOptimizer(owners, find_algorithm(config, plugins), total_steps)
