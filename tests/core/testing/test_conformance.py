"""The conformance checks pass a sound objective and catch each broken rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vtp_core.config import ObjectiveConfig
from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.objective import AdversarialObjective, Objective
from vtp_core.parameters import Dims
from vtp_core.testing import ConformanceError, check_objective
from vtp_core.view import ViewNeed


class Config(ObjectiveConfig):
    def views(self) -> Mapping[str, ViewNeed]:
        return {"main": ViewNeed(masked=True)}


CONFIG = Config(use="sound")


class Sound(Objective):
    """Predicts the mean masked feature of all ranks with a head; every verb that crosses ranks is used."""

    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.head = nn.Linear(dims.width, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, step: Any) -> Losses:
        features, masks = step.encode("main", masked=True), step.batch("main").masks
        out = step.call(self.head, features.patches)
        error = (out * self.scale).square().mean(-1)
        spread = step.gather(features.cls[:, 0])
        pull = (features.cls[:, 0] @ spread.T).tanh().mean(1)
        noise = step.randn(len(pull))
        return Losses(terms={"masked": step.mean(error, masks.weight), "pull": step.mean(pull * noise)})


def test_a_sound_objective_passes() -> None:
    check_objective(Sound, CONFIG)


@pytest.mark.distributed
def test_a_sound_objective_passes_with_processes() -> None:
    check_objective(Sound, CONFIG, processes=True)


def _broken(change: Callable[[Any, Any, Losses], Losses]) -> type[Objective]:
    class Broken(Sound):
        def forward(self, step: Any) -> Losses:
            return change(self, step, super().forward(step))

    return Broken


def _count(self: Any, step: Any, losses: Losses) -> Losses:
    self.steps += 1
    return losses


def _local_mean(self: Any, step: Any, losses: Losses) -> Losses:
    weight = step.batch("main").masks.weight
    error = (self.head(step.encode("main", masked=True).patches) * self.scale).square().mean(-1)
    return Losses(terms={**losses.terms, "masked": (error * weight).sum() / weight.sum()})


def _cut_gather(self: Any, step: Any, losses: Losses) -> Losses:
    own = step.encode("main", masked=True).cls[:, 0]
    keys = own if step.world_size == 1 else step.gather(own).detach()
    return Losses(terms={**losses.terms, "pull": step.mean((own @ keys.T).tanh().mean(1))})


def _contiguous(self: Any, step: Any, losses: Losses) -> Losses:
    own = step.encode("main", masked=True).cls[:, 0]
    positives = torch.arange(len(own)) + step.rank * len(own)
    logits = own @ (step.gather(own) + 1).T
    return Losses(terms={**losses.terms, "pull": nn.functional.cross_entropy(logits, positives)})


def _replace(name: str, make: Callable[[Tensor], Tensor]) -> Callable[[Any, Any, Losses], Losses]:
    return lambda self, step, losses: Losses(terms={**losses.terms, name: make(losses.terms[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_count, "forward\\(\\) changed 'steps'"),
        (_local_mean, "another gradient than one rank"),
        (_cut_gather, "another gradient than one rank"),
        (_contiguous, "another gradient than one rank"),
        (_replace("pull", lambda term: term + torch.rand(()) * term), "the same step gave another loss"),
        (_replace("pull", lambda term: term / 0), "term 'pull' is not a finite scalar"),
        (_replace("pull", lambda term: term.expand(2)), "term 'pull' is not a finite scalar"),
        (_replace("masked", lambda term: term.detach()), "no gradient reaches its parameter"),
        (lambda self, step, losses: Losses(terms={}), "returned no term"),
        (lambda self, step, losses: Losses(terms={"x": torch.ones(())}), "no term depends on a network"),
    ],
)
def test_a_broken_forward_is_caught(change: Callable[[Any, Any, Losses], Losses], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_objective(_broken(change), CONFIG)


def test_terms_that_differ_between_ranks_are_caught() -> None:
    def change(self: Any, step: Any, losses: Losses) -> Losses:
        return losses if step.rank == 0 else Losses(terms={"pull": losses.total()})

    with pytest.raises(ConformanceError, match="ranks return different terms"):
        check_objective(_broken(change), CONFIG)


def test_a_loss_that_loses_its_digits_in_bfloat16_is_caught() -> None:
    def lossy(self: Any, step: Any, losses: Losses) -> Losses:
        values = self.head(step.encode("main", masked=True).patches)
        return Losses(
            terms={**losses.terms, "masked": step.mean(((values + 1000) - 1000).abs() * self.scale)}
        )

    with pytest.raises(ConformanceError, match="in bfloat16"):
        check_objective(_broken(lossy), CONFIG)


def test_a_scalar_parameter_is_caught() -> None:
    class Scalar(Sound):
        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            self.scale = nn.Parameter(torch.ones(()))

    with pytest.raises(ConformanceError, match="'scale' is 0-D"):
        check_objective(Scalar, CONFIG)


def test_state_outside_the_state_dict_is_caught() -> None:
    class Hidden(Sound):
        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            self.offset = torch.randn(1)

        def forward(self, step: Any) -> Losses:
            losses = super().forward(step)
            return Losses(terms={**losses.terms, "pull": losses.terms["pull"] * self.offset.item()})

    with pytest.raises(ConformanceError, match="state_dict round trip"):
        check_objective(Hidden, CONFIG)


def test_a_name_without_a_module_is_caught() -> None:
    class Misnamed(Sound):
        teachers = ("tokenizer.encoder", "haed")

    with pytest.raises(ConformanceError, match="teachers names 'haed'"):
        check_objective(Misnamed, CONFIG)


def test_an_undeclared_view_is_caught() -> None:
    class Undeclared(Sound):
        def forward(self, step: Any) -> Losses:
            step.encode("other")
            return super().forward(step)

    with pytest.raises(UsageError, match="'other' is used but not declared"):
        check_objective(Undeclared, CONFIG)


def test_a_trained_frozen_network_is_caught() -> None:
    class Trains(Sound):
        def forward(self, step: Any) -> Losses:
            losses = super().forward(step)
            out = step.frozen("judge")(step.encode("main", masked=True).cls)
            return Losses(terms={**losses.terms, "judge": step.mean(out)})

    with pytest.raises(ConformanceError, match="frozen network 'judge'"):
        check_objective(Trains, CONFIG, frozen={"judge": nn.Linear(16, 1)})
    check_objective(Trains, CONFIG, frozen={"judge": nn.Linear(16, 1).requires_grad_(False)})


class Adversarial(AdversarialObjective):
    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))

    def forward(self, step: Any) -> Losses:
        image = step.reconstruct("main").image
        term, _ = step.balance(step.mean(-self.critic(image)), image)
        return Losses(terms={"fool": term})

    def critic_loss(self, step: Any) -> Losses:
        fake, real = step.detached("main").image, step.batch("main").image
        return Losses(
            terms={"hinge": step.mean((1 + self.critic(fake)).relu() + (1 - self.critic(real)).relu())}
        )


def test_a_sound_adversarial_objective_passes() -> None:
    check_objective(Adversarial, CONFIG)


def test_a_critic_that_reaches_the_image_is_caught() -> None:
    class Leaks(Adversarial):
        def critic_loss(self, step: Any) -> Losses:
            return Losses(terms={"hinge": step.mean(self.critic(step.reconstruct("main").image))})

    with pytest.raises(ConformanceError, match=r"sends a gradient to reconstruct\(main\)"):
        check_objective(Leaks, CONFIG)
