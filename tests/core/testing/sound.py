"""Objectives that keep every rule, for tests that then break one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vtp_core.config import ObjectiveConfig
from vtp_core.features import Losses, Tally
from vtp_core.objective import AdversarialObjective, Objective
from vtp_core.parameters import Dims
from vtp_core.recipe.tables.adversarial import AdversarialConfig
from vtp_core.step import Step
from vtp_core.view import ViewNeed


class Config(ObjectiveConfig):
    def views(self) -> Mapping[str, ViewNeed]:
        return {"main": ViewNeed(masked=True)}


class CriticConfig(AdversarialConfig):
    def views(self) -> Mapping[str, ViewNeed]:
        return {"main": ViewNeed()}


CONFIG = Config(use="sound.sound")
CRITIC_CONFIG = CriticConfig(use="sound.critic")


class Sound(Objective):
    """Masked distillation, a contrast of class tokens in both directions, and a running mean of tokens."""

    teachers = ("head", "tokenizer.encoder")

    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.head = nn.Linear(dims.width, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(dims.width))

    def forward(self, step: Step) -> Losses:
        features, cls = step.encode("main", masked=True), step.encode("main").cls
        first, second = cls[:, 0], cls[:, 1] - self.get_buffer("mean")
        terms = {
            "masked": self.masked(step, features.patches),
            "contrast": self.contrast(step, first, second),
            "noise": self.noise(step, first),
        }
        return Losses(terms=terms, tally=self.count(step, first.detach()))

    def masked(self, step: Step, patches: Tensor) -> Tensor:
        masks = step.batch("main").masks
        assert masks is not None
        target = step.teacher.own(self.head)(step.teacher.encode("main").patches)
        error = (step.call(self.head, patches) * self.scale - target).square().mean(-1)
        return step.mean(error, masks.weight)

    def contrast(self, step: Step, first: Tensor, second: Tensor) -> Tensor:
        own = torch.arange(len(first)) * step.world_size + step.rank
        directions = (first, step.gather(second)), (second, step.gather(first))
        rows = [nn.functional.cross_entropy(a @ b.T / 9, own, reduction="none") for a, b in directions]
        return step.mean(torch.stack(rows))

    def noise(self, step: Step, first: Tensor) -> Tensor:
        return step.mean(step.randn(len(first)).to(first) * first.mean(1).tanh())

    def count(self, step: Step, first: Tensor) -> Tally:
        return Tally(sums={"sum": first.sum(0), "count": first.new_tensor([len(first)])}, rows={"cls": first})

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        self.get_buffer("mean").lerp_(
            (tally.sums["sum"] / tally.sums["count"]).to(self.get_buffer("mean")), 0.1
        )


class SoundCritic(AdversarialObjective):
    """A hinge loss against a linear critic."""

    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))

    def forward(self, step: Step) -> Losses:
        image = step.reconstruct("main").image
        term, weight = step.balance(step.mean(-self.critic(image)), image)
        return Losses(terms={"fool": term}, report={"weight": weight})

    def critic_loss(self, step: Step) -> Losses:
        fake, real = step.detached("main").image, step.batch("main").image
        return Losses(
            terms={"hinge": step.mean((1 + self.critic(fake)).relu() + (1 - self.critic(real)).relu())}
        )
