"""Owners: the parts of a run that parameters belong to, with their factors on the optimiser's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch.nn import Parameter

from vtp_core.config import OptimizerOverrides
from vtp_core.parameters import ParamRule
from vtp_core.schedule import Constant, Scheduled
from vtp_core.training.networks import PARTS, Networks


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A named set of parameters with common rules and factors.

    Attributes:
        name: ``encoder``, ``bottleneck``, ``decoder``, an objective's name or ``<objective>.critic``.
        parameters: Full name -> parameter, trained by this owner alone.
        rules: Deviations by pattern on the name below `prefix`; the first that matches holds.
        prefix: What full names start with, such as ``tokenizer.encoder.``.
        overrides: Factors of the recipe for the whole owner.
        in_blocks: Full names of the parameters that lie in blocks of a network, not in embeddings or heads.
    """

    name: str
    parameters: Mapping[str, Parameter]
    rules: Sequence[ParamRule] = ()
    prefix: str = ""
    overrides: OptimizerOverrides = field(default_factory=OptimizerOverrides)
    in_blocks: frozenset[str] = frozenset()

    def below(self, name: str) -> str:
        """A full parameter name without the owner's prefix."""
        return name.removeprefix(self.prefix)

    def rule(self, name: str) -> ParamRule | None:
        """The rule that holds for a full parameter name."""
        return next((rule for rule in self.rules if fnmatchcase(self.below(name), rule.pattern)), None)

    def lr(self, name: str) -> Scheduled:
        """Factor on the learning rate by the parameter's rule, without the overrides."""
        rule = self.rule(name)
        return 1.0 if rule is None else rule.lr

    def decay(self, name: str) -> float:
        """Factor on the weight decay, overrides included."""
        rule = self.rule(name)
        if rule is not None and rule.decay is not None:
            return rule.decay * self.overrides.weight_decay
        return self.overrides.weight_decay if self.parameters[name].ndim >= 2 else 0.0

    def frozen(self, name: str) -> bool:
        """Whether the parameter is never trained: frozen already, or a constant factor of 0."""
        lr = self.lr(name)
        zero = lr == 0 or (isinstance(lr, Constant) and lr.value == 0 and lr.warmup == 0)
        return zero or self.overrides.lr == 0 or not self.parameters[name].requires_grad

    def trained(self) -> dict[str, Parameter]:
        """The parameters that the optimiser moves, by full name."""
        return {name: value for name, value in self.parameters.items() if not self.frozen(name)}


def build_owners(networks: Networks, overrides: Mapping[str, OptimizerOverrides]) -> list[Owner]:
    """The owners of the main optimiser: tokenizer parts and objectives.

    Args:
        networks: The run's modules.
        overrides: Tokenizer part -> factors; those of an objective come from its own table.
    """
    parts = [
        Owner(
            name=name,
            parameters=networks.parameters_of(name),
            rules=networks.part(name).rules(),  # type: ignore[operator]
            prefix=f"tokenizer.{name}.",
            overrides=overrides.get(name, OptimizerOverrides()),
            in_blocks=networks.block_parameters(name),
        )
        for name in PARTS
    ]
    return parts + [
        Owner(
            name=name,
            parameters=networks.parameters_of(name),
            rules=objective.rules(),
            prefix=f"objectives.{name}.",
            overrides=objective.config.optimizer,
            in_blocks=networks.block_parameters(name),
        )
        for name, objective in networks.objectives.items()
    ]


def freeze(owners: Sequence[Owner]) -> list[str]:
    """Turns gradients off where a learning rate factor is constantly 0. Call it before sharding.

    Returns:
        Full names of the parameters that it froze.
    """
    names = []
    for owner in owners:
        for name, parameter in owner.parameters.items():
            if parameter.requires_grad and owner.frozen(name):
                parameter.requires_grad_(False)
                names.append(name)
    return names
