"""A real joint step of a few rows, with networks of the recipe's width and little depth, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtp_core.encoder import Encoder
from vtp_core.features import Features, Tokens
from vtp_core.run.setup import build
from vtp_core.training.groups import Group, group_needs
from vtp_core.training.joint import JointStep
from vtp_core.training.optim.critics import Critics, build_critic_optimizers
from vtp_core.training.optim.guard import Guard
from vtp_core.training.ranks.world import World
from vtp_core.view import Size, sides
from vtp_plugins.plan.drawn import drawn_batches
from vtp_plugins.plan.meter import Meter
from vtp_plugins.plan.products import Undrawn

if TYPE_CHECKING:
    from torch.nn import Parameter

    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.recipe import Recipe


class _Lenient(Guard):
    """Accepts every value: a probe's values are meaningless."""

    def check(self, objective: str, terms: object) -> None:
        """Nothing to refuse."""

    def check_gradients(self, norms: object) -> None:
        """Nothing to refuse."""

    def __init__(self) -> None:
        super().__init__(max_skipped=0)
        self.idle: dict[str, list[str]] = {}

    def audit(self, owner: str, parameters: Mapping[str, Parameter]) -> None:
        """Notes a critic's parameters without gradient, which are gone after the step."""
        self.idle[owner] = _without_gradient(parameters)


class Probe:
    """Shallow networks that can run a step.

    Attributes:
        networks: The modules, EMA copies included.
        dims: Their sizes, with the recipe's depth.
        groups: The groups of the step.
        needs: Objective -> view -> what it asks.

    Args:
        recipe: What `shrink.shallow` returned.
        plugins: Where its components come from.
        depth: Blocks of the recipe's own encoder; taps of deeper blocks return the last one.
    """

    def __init__(self, recipe: Recipe, plugins: Plugins, depth: int) -> None:
        self._recipe = recipe
        with Undrawn():
            self.networks, self.dims = build.build_run_networks(
                recipe, plugins, load_frozen=False, depth=depth
            )
        build.apply_freezes(self.networks, recipe)
        build.build_run_ema(self.networks, recipe)
        self._critics = build_critic_optimizers(self.networks, recipe.run.steps, plugins)
        for module in (self.networks.encoder, *self.networks.frozen.values(), *self.networks.ema.values()):
            if isinstance(module, Encoder):
                _serve_deep_taps(module)
        self._idle: dict[str, list[str]] = {}
        options = replace(build.forward_options(recipe), microbatch_rows=None)
        self._joint = JointStep(self.networks, World(), options)
        self.groups: list[Group] = self._joint.groups
        self.needs = self._joint.needs

    def step(self, rows: int) -> Meter:
        """Runs the run's last step, when every warm-up has passed, on `rows` rows a view."""
        meter, world, guard = Meter(), World(), _Lenient()
        options = replace(self._joint.options, observer=meter)
        critics = Critics(self.networks, world, self._critics, guard) if self._critics else None
        joint = JointStep(self.networks, world, options, critics=critics, guard=guard)
        drawn = drawn_batches(self._recipe, group_needs(self.needs, self.needs), self.dims, rows)
        batches = {view: batch.to(world.device) for view, batch in drawn.items()}
        for trained in self._trained().values():
            for parameter in trained.values():
                parameter.grad = None
        with meter.watch(self.networks, batches):
            joint(batches, self._recipe.run.steps - 1)
        self._idle = {owner: _without_gradient(trained) for owner, trained in self._trained().items()}
        self._idle |= guard.idle
        return meter

    def idle(self) -> dict[str, list[str]]:
        """Owner -> trainable parameters that the last step's losses missed, if there are any."""
        return {owner: names for owner, names in self._idle.items() if names}

    def unused(self) -> list[str]:
        """Owners with trainable parameters of which the last step's losses reached none."""
        idle = self.idle()
        return [
            owner for owner, trained in self._trained().items() if len(idle.get(owner, ())) == len(trained)
        ]

    @torch.no_grad()
    def reconstruct(self, size: Size) -> None:
        """Encodes and decodes one image of `size` pixels."""
        networks = self.networks
        layers = networks.bottleneck.layers
        (tokens,) = networks.encoder([torch.zeros(1, 1, 3, *sides(size))], [None], layers=layers)
        networks.decoder(networks.bottleneck(Features(crops={"global": tokens})).z)

    def _trained(self) -> dict[str, dict[str, Parameter]]:
        found = {
            owner: {
                name: parameter
                for name, parameter in self.networks.parameters_of(owner).items()
                if parameter.requires_grad
            }
            for owner in (*self.networks.owners(), *self.networks.critics())
        }
        return {owner: trained for owner, trained in found.items() if trained}


def _without_gradient(parameters: Mapping[str, Parameter]) -> list[str]:
    return [name for name, p in parameters.items() if p.requires_grad and p.grad is None]


def _serve_deep_taps(encoder: Encoder) -> None:
    inner, last = encoder.forward, encoder.depth - 1

    def forward(
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: Sequence[int] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        there = tuple(sorted({min(layer, last) for layer in layers}))
        tokens = inner(images, masks, layers=there, drop_path=drop_path)
        if there == tuple(layers):
            return tokens
        return [
            replace(crops, layers={layer: crops.layers[min(layer, last)].clone() for layer in layers})
            for crops in tokens
        ]

    encoder.__dict__["forward"] = forward
