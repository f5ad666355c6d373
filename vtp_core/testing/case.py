"""One objective under test: how it is built and the step it gets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vtp_core.config import ObjectiveConfig
from vtp_core.features import Losses
from vtp_core.objective import AdversarialObjective, Objective
from vtp_core.parameters import Dims
from vtp_core.testing.batches import CROP_COUNTS, drawn_batch
from vtp_core.testing.fake_step import FakeStep
from vtp_core.testing.networks import TINY_DIMS
from vtp_core.testing.ranks import Ranks
from vtp_core.training.ranks.world import World


class ConformanceError(AssertionError):
    """An objective breaks a rule of the framework; the message says which and how to follow it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An objective under test and the step it gets.

    Attributes:
        target: The objective's class.
        config: Its table.
        dims: Sizes of the networks.
        rows: Global rows of views for which the objective asks no number of its own.
        size: Pixels a side.
        counts: Crop set -> crops a row.
        seed: Seed of weights, pictures and randomness.
        frozen: What ``step.frozen`` finds.
        shared: What ``step.shared`` finds.
    """

    target: type[Objective]
    config: ObjectiveConfig
    dims: Dims = TINY_DIMS
    rows: int = 8
    size: int = 32
    counts: Mapping[str, int] | None = None
    seed: int = 0
    frozen: Mapping[str, nn.Module] | None = None
    shared: Mapping[str, nn.Module] | None = None

    def build(self, dtype: torch.dtype = torch.float32) -> Objective:
        """The objective with reproducible weights, in training mode, critics frozen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            objective = self.target(self.config, self.dims)
        if isinstance(objective, AdversarialObjective):
            objective.critic.requires_grad_(False)
        return objective.to(dtype).train()

    def step(
        self, objective: Objective, world: Ranks | None = None, dtype: torch.dtype = torch.float32
    ) -> FakeStep:
        """A step that serves exactly what the objective declares."""
        needs = objective.views()
        world = World() if world is None else world
        batches = {
            view: drawn_batch(
                need,
                rows=self.rows,
                size=self.size,
                counts=CROP_COUNTS if self.counts is None else self.counts,
                dims=self.dims,
                world=world,
                dtype=dtype,
                seed=self.seed,
            )
            for view, need in needs.items()
        }
        return FakeStep(
            batches,
            needs=needs,
            dims=self.dims,
            world=world,
            frozen=_as_dtype(self.frozen, dtype),
            shared=_as_dtype(self.shared, dtype),
            seed=self.seed,
        )

    def forward(self, objective: Objective, step: FakeStep) -> Losses:
        """What the objective returns for a step."""
        call: Callable[[Any], Losses] = objective
        return call(step)

    def fail(self, message: str) -> ConformanceError:
        """The error for a broken rule."""
        return ConformanceError(f"{self.target.__name__} ({self.config.use}): {message}")


def _as_dtype(modules: Mapping[str, nn.Module] | None, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The modules themselves in float32, copies in any other dtype."""
    if dtype == torch.float32:
        return dict(modules or {})
    return {name: copy.deepcopy(module).to(dtype) for name, module in (modules or {}).items()}
