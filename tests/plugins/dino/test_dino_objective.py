"""The objective `dino`: conformance, ranks, pairs, centre, rules, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.features import Tally
from vtp_core.schedule import value_at
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.training.optim.owners import Owner
from vtp_core.view import ViewSize
from vtp_plugins.dino.config import DinoConfig
from vtp_plugins.dino.objective import Dino

SMALL: dict[str, Any] = {"use": "dino", "view": "ssl", "prototypes": 24, "head_hidden": 20, "head_width": 8}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": "centering", "bottleneck": True},
        {"local_crops": (), "masked": False, "rows": 4, "head_layers": 1},
        {"fixed_scales": True, "freeze_prototypes": 0},
    ],
)
def test_conformance(options: dict[str, Any]) -> None:
    check_objective(Dino, DinoConfig(**SMALL, **options))


def _step(objective: Dino, rows: int = 3, **counts: int) -> FakeStep:
    need = objective.views()["ssl"]
    batch = drawn_batch(need, rows=rows, counts={"global": 2, "local": 3} | counts, dtype=torch.float64)
    return FakeStep({"ssl": batch}, objective, index=40)


def _softmax(scores: numpy.ndarray) -> numpy.ndarray:
    shifted = numpy.exp(scores - scores.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("crops", [{"global": 2, "local": 3}, {"global": 3, "local": 1}, {"global": 1}])
def test_the_mean_over_pairs_of_different_crops(crops: dict[str, int]) -> None:
    """Centring from a centre that is not 0, pair by pair in numpy."""
    config = DinoConfig(**SMALL, targets="centering", student_temperature=0.2, teacher_temperature=0.05)
    objective = Dino(config, TINY_DIMS).double()
    assert objective.centre is not None
    objective.centre.copy_(torch.linspace(-0.5, 0.5, 24))
    step = _step(objective, **crops)
    losses = objective(step)

    def scores(crops: Tensor | None) -> numpy.ndarray:
        assert crops is not None
        unit = objective.head(crops.detach().flatten(0, 1)).unflatten(0, crops.shape[:2])
        return (unit @ objective.prototypes(torch.arange(24)).T).detach().numpy()

    student = step.encode("ssl", masked=True)
    mine = [scores(student[name].cls) for name in ("global", "local")]
    theirs = scores(step.teacher.encode("ssl")["global"].cls)  # teacher heads start as copies
    targets = _softmax((theirs - objective.centre.numpy()) / 0.05)
    parts: dict[str, float] = {"global": 0.0, "local": 0.0}
    pairs = 0
    for name, logits in zip(parts, mine, strict=True):
        for crop in range(logits.shape[1]):
            for other in range(theirs.shape[1]):
                if name == "global" and crop == other:
                    continue
                loss = -(targets[:, other] * numpy.log(_softmax(logits[:, crop] / 0.2))).sum(-1)
                parts[name] += loss.mean()
                pairs += 1
    for name, part in parts.items():
        assert losses.report[name].item() == pytest.approx(part / pairs, rel=1e-10)
    assert losses.terms["distillation"].item() == pytest.approx(sum(parts.values()) / pairs, rel=1e-10)
    entropy = -(targets * numpy.log(targets)).sum(-1).mean()
    assert losses.report["target_entropy"].item() == pytest.approx(entropy, rel=1e-10)

    assert losses.tally is not None
    objective.after_step(losses.tally, 40)
    expected = numpy.linspace(-0.5, 0.5, 24) * 0.9 + theirs.reshape(-1, 24).mean(0) * 0.1
    numpy.testing.assert_allclose(objective.centre.numpy(), expected, rtol=1e-6, atol=1e-7)
    before = objective.centre.clone()
    objective.after_step(Tally(sums={"scores": torch.zeros(24), "rows": torch.zeros(1)}), 41)
    assert torch.equal(objective.centre, before)  # a step without rows moves nothing


def test_a_single_crop_is_an_error_that_says_what_to_do() -> None:
    config = DinoConfig(**SMALL, local_crops=())
    with pytest.raises(UsageError, match=r"set views\.ssl\.crops\.global\.count = 2"):
        objective = Dino(config, TINY_DIMS).double()
        objective(_step(objective, **{"global": 1}))
    with pytest.raises(UsageError, match="no class token"):
        Dino(config, replace(TINY_DIMS, has_cls=False))


def test_teachers_and_shares_follow_the_table() -> None:
    plain = Dino(DinoConfig(**SMALL), TINY_DIMS)
    assert plain.teachers == ("head", "prototypes", "tokenizer.encoder") and plain.centre is None
    latent = Dino(DinoConfig(**SMALL, bottleneck=True), TINY_DIMS)
    assert latent.teachers[-1] == "tokenizer.bottleneck" and latent.head.width == TINY_DIMS.channels
    assert set(plain.shares) == {"head", "prototypes"}


def _owner(config: DinoConfig) -> Owner:
    objective = Dino(config, TINY_DIMS)
    return Owner(name="dino", parameters=dict(objective.named_parameters()), rules=objective.rules())


def test_prototypes_stand_still_at_first() -> None:
    owner = _owner(DinoConfig(**SMALL, freeze_prototypes=7))
    for name in ("prototypes.weight_v", "prototypes.weight_g"):
        factors = [value_at(owner.lr(name), index, 100) for index in (0, 6, 7, 99)]
        assert factors == [0, 0, 1, 1] and not owner.frozen(name)
    assert owner.lr("head.mlp.0.weight") == 1
    free = _owner(DinoConfig(**SMALL, freeze_prototypes=0, fixed_scales=True))
    assert free.lr("prototypes.weight_v") == 1
    assert free.frozen("prototypes.weight_g") and "prototypes.weight_g" not in free.trained()


def test_defaults_are_those_of_the_papers() -> None:
    config = DinoConfig(use="dino", view="ssl")
    at = [value_at(config.teacher_temperature, step, 125_000) for step in (0, 18_750, 37_500, 124_999)]
    assert at == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert (config.prototypes, config.head_hidden, config.head_width, config.head_layers) == (
        65536,
        2048,
        256,
        3,
    )


def test_impossible_tables_are_recipe_errors() -> None:
    falling = {"kind": "linear", "start": 0.04, "end": 0.0}
    for change in (
        {"teacher_temperature": 0.0},
        {"teacher_temperature": falling},
        {"student_temperature": 0},
        {"prototypes": 0},
        {"targets": "none"},
        {"center_momentum": 1.0},
    ):
        with pytest.raises(ValidationError):
            DinoConfig(**(SMALL | change))


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_the_declared_chance_is_the_loss_of_equal_outputs(targets: str) -> None:
    config = DinoConfig.model_validate({**SMALL, "targets": targets, "student_temperature": 1e9})
    objective = Dino(config, TINY_DIMS).double()
    term = objective(_step(objective)).terms["distillation"].item()
    assert config.chance({"ssl": ViewSize(rows=3)}, {}) == {"distillation": pytest.approx(term)}
