"""Sound objectives pass the conformance checks; broken declarations don't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.core.testing.sound import CONFIG, CRITIC_CONFIG, Config, CriticConfig, Sound, SoundCritic
from vtp_core.config import ObjectiveConfig
from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_core.testing import TINY_DIMS, ConformanceError, check_objective
from vtp_core.view import ViewNeed


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_sound_objective_passes(ranks: int) -> None:
    check_objective(Sound, CONFIG, ranks=ranks)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("target", "config"), [(Sound, CONFIG), (SoundCritic, CRITIC_CONFIG)])
def test_a_sound_objective_passes_with_sharded_processes(target: type[Objective], config: Any) -> None:
    check_objective(target, config, processes=True)


def test_a_sound_objective_with_a_critic_passes() -> None:
    check_objective(SoundCritic, CRITIC_CONFIG)


@pytest.mark.parametrize("options", [{"start": 7}, {"weight": 0.0}], ids=str)
def test_it_is_checked_where_it_is_active_and_has_a_weight(options: dict[str, Any]) -> None:
    class Local(Sound):
        def contrast(self, step: Step, first: Tensor, second: Tensor) -> Tensor:
            return nn.functional.cross_entropy(first @ second.T, torch.arange(len(first)))

    config = CONFIG.model_copy(update=options)
    check_objective(Sound, config)
    with pytest.raises(ConformanceError, match="2 ranks"):
        check_objective(Local, config)


def test_a_plain_mean_over_rows_of_which_every_rank_holds_as_many_passes() -> None:
    class Plain(Sound):
        def noise(self, step: Step, first: Tensor) -> Tensor:
            return (step.randn(len(first)) * first.mean(1).tanh()).mean()

    check_objective(Plain, CONFIG)


def test_dropout_in_an_own_module_passes() -> None:
    class Dropping(Sound):
        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(dims.width, 3))  # type: ignore[assignment]

    check_objective(Dropping, CONFIG)


def test_frozen_and_shared_modules_are_served() -> None:
    class Uses(Sound):
        def masked(self, step: Step, patches: Tensor) -> Tensor:
            judged = step.frozen("judge")(step.call(step.shared("other.head"), patches))
            target = step.teacher.own(step.shared("other.head"))(patches.detach())
            return super().masked(step, patches) + step.mean((judged - target).square())

    modules = {"frozen": {"judge": nn.Linear(2, 1)}, "shared": {"other.head": nn.Linear(16, 2)}}
    check_objective(Uses, CONFIG, **modules)  # type: ignore[arg-type]
    with pytest.raises(ConformanceError, match=r"no objective shares 'other\.head'"):
        check_objective(Uses, CONFIG, frozen=modules["frozen"])
    with pytest.raises(ConformanceError, match=r"add a table \[frozen\.judge\]"):
        check_objective(Uses, CONFIG, shared=modules["shared"])


class CachedConfig(ObjectiveConfig):
    layers: tuple[int, ...] = ()

    def views(self) -> Mapping[str, ViewNeed]:
        return {"main": ViewNeed(latent=True)}


class Cached(Objective):
    """A loss on latents, be they cached or made."""

    def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.net = nn.Conv2d(dims.channels, 1, 1)

    def forward(self, step: Step) -> Losses:
        return Losses(terms={"x": step.mean(step.call(self.net, step.tokenize("main").z).float().square())})


def test_an_objective_that_declares_cached_latents_gets_them() -> None:
    class Encodes(Cached):
        def forward(self, step: Step) -> Losses:
            return Losses(terms={**super().forward(step).terms, "y": step.mean(step.encode("main").cls)})

    check_objective(Cached, CachedConfig(use="cached"))
    with pytest.raises(ConformanceError, match=r"KeyError: 'global'; does views\(\) declare all"):
        check_objective(Encodes, CachedConfig(use="cached"))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"teachers": ("tokenizer.encoder", "haed")}, "teachers names 'haed', but the child modules are"),
        ({"shares": ("haed",)}, "shares names 'haed'"),
        ({"exports": {"embed": "haed"}}, "exports names 'haed'"),
        ({"views": lambda self: {"main": ViewNeed()}}, r"views\(\) differs from config\.views\(\)"),
        ({"teachers": ("head",)}, "asks for the teacher of TinyEncoder.*`teachers`"),
        ({"twins": ("head",)}, "the attribute `twins`.*is now called `teachers`"),
    ],
)
def test_a_wrong_declaration_is_caught(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_objective(type("Wrong", (Sound,), attributes), CONFIG)


def test_exports_that_no_artefact_could_load_are_caught() -> None:
    class Reads(Sound):
        exports: ClassVar[Mapping[str, str]] = {"embed_image": "head"}

        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            self.number = float(torch.ones(1).sum())

    with pytest.raises(ConformanceError, match=r"can't be built on the meta device .*so that no artefact"):
        check_objective(Reads, CONFIG)


def test_a_critic_without_its_table_is_caught() -> None:
    class Plain(Config):
        def views(self) -> Mapping[str, ViewNeed]:
            return CriticConfig(use="x").views()

    with pytest.raises(ConformanceError, match="its table must be an AdversarialConfig"):
        check_objective(SoundCritic, Plain(use="sound.critic"))


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_objective(Sound, CONFIG, dims=TINY_DIMS)
    assert torch.equal(torch.rand(2), expected)
