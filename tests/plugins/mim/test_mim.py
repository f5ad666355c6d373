"""The objective `mim`: conformance, ranks, weights an image, the shared head, empty and full masks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vtp_core.batch import Batch, Masks
from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.recipe import RecipeErrors, load_recipe
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewSize
from vtp_plugins.dino.head import Head, Prototypes
from vtp_plugins.mim.config import MimConfig
from vtp_plugins.mim.objective import Mim

SIZES: dict[str, Any] = {"prototypes": 24, "head_hidden": 20, "head_width": 8}
OWN: dict[str, Any] = {"use": "mim", "view": "ssl", **SIZES}
SHARED: dict[str, Any] = {"use": "mim", "view": "ssl", "prototypes": 24, "share_head_with": "dino"}


def _shared() -> dict[str, torch.nn.Module]:
    torch.manual_seed(1)
    return {"dino.head": Head(16, 20, 8, 3), "dino.prototypes": Prototypes(24, 8)}


@pytest.mark.parametrize("options", [{}, {"targets": "centering", "bottleneck": True, "rows": 4}])
def test_conformance(options: dict[str, Any]) -> None:
    check_objective(Mim, MimConfig(**OWN, **options))


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_conformance_with_a_shared_head(targets: str) -> None:
    check_objective(Mim, MimConfig(**SHARED, targets=targets), shared=_shared())


def _batch(config: MimConfig, mask: Tensor) -> Batch:
    """Rows with the given mask (B, C, 16)."""
    batch = drawn_batch(config.views()["ssl"], rows=len(mask), dtype=torch.float64)
    return replace(
        batch, masks=Masks(mask=mask, weight=mask.double() / mask.sum(-1, keepdim=True).clamp_min(1))
    )


def _run(objective: Mim, mask: Tensor) -> tuple[Losses, FakeStep]:
    step = FakeStep({"ssl": _batch(objective.config, mask)}, objective)
    return objective(step), step


def test_each_masked_image_weighs_the_same() -> None:
    config = MimConfig(**OWN, targets="centering", teacher_temperature=0.05, student_temperature=0.2)
    objective = Mim(config, TINY_DIMS).double()
    mask = torch.zeros(3, 2, 16, dtype=torch.bool)
    mask[0, 0, :8], mask[0, 1, 3], mask[2, 1, 5:7] = True, True, True
    losses, step = _run(objective, mask)

    def scores(tokens: Tensor) -> Tensor:
        return objective.head(tokens.detach()) @ objective.prototypes(torch.arange(24)).T

    student = scores(step.encode("ssl", masked=True).patches[mask]) / 0.2
    target = (scores(step.teacher.encode("ssl").patches[mask]) / 0.05).softmax(-1)
    every = -(target * student.log_softmax(-1)).sum(-1).detach().numpy()
    images = [every[:8], every[8:9], every[9:]]
    expected = sum(image.mean() for image in images) / 6  # six global crops, masked or not
    assert losses.terms["distillation"].item() == pytest.approx(expected, rel=1e-10)
    assert losses.report["masked"].item() == pytest.approx(11 / 96)
    assert losses.tally is not None and losses.tally.sums["rows"].item() == 11
    objective.after_step(losses.tally, 0)
    mean = scores(step.teacher.encode("ssl").patches[mask]).mean(0).detach().numpy()
    assert objective.centre is not None
    numpy.testing.assert_allclose(objective.centre.numpy(), mean * 0.1, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
@pytest.mark.parametrize("masked", [False, True], ids=["none masked", "all masked"])
def test_empty_and_full_masks(masked: bool, targets: str) -> None:
    objective = Mim(MimConfig(**OWN, targets=targets), TINY_DIMS).double()
    losses, step = _run(objective, torch.full((3, 2, 16), masked))
    step.backward(losses)
    assert torch.isfinite(losses.total()) and (losses.total() > 0) == masked
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert masked or parameter.grad.abs().max() == 0, name


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_a_rank_without_masked_patches_agrees_with_one_rank(targets: str) -> None:
    config = MimConfig(**OWN, targets=targets)
    objective = Mim(config, TINY_DIMS).double()
    mask = torch.zeros(4, 2, 16, dtype=torch.bool)
    mask[::2, :, 2:9] = True  # rows of rank 0 alone
    whole, step = _run(objective, mask)
    step.backward(whole)
    expected = [parameter.grad for parameter in objective.parameters()]
    objective.zero_grad()

    def body(world: World) -> tuple[Tensor, list[Tensor | None]]:
        own = copy.deepcopy(objective)
        batch = _batch(config, mask)
        masks = batch.masks
        assert masks is not None
        mine = slice(world.rank, None, 2)
        local = replace(
            batch,
            crops={name: crop[mine] for name, crop in batch.crops.items()},
            keys=batch.keys[mine],
            masks=Masks(mask=masks.mask[mine], weight=masks.weight[mine]),
        )
        step = FakeStep({"ssl": local}, own, world=world)
        losses = own(step)
        step.backward(losses)
        return losses.total(), [parameter.grad for parameter in own.parameters()]

    totals, gradients = zip(*run_ranks(2, body), strict=True)
    torch.testing.assert_close(torch.stack(totals).mean(), whole.total(), rtol=1e-12, atol=0)
    for *ranks, gradient in zip(*gradients, expected, strict=True):
        torch.testing.assert_close(torch.stack(ranks).mean(0), gradient, rtol=1e-10, atol=1e-14)


def test_a_shared_head_is_no_parameter_of_its_own() -> None:
    shared = Mim(MimConfig(**SHARED), TINY_DIMS)
    assert not list(shared.parameters()) and shared.teachers == ("tokenizer.encoder",) and shared.shares == ()
    own = Mim(MimConfig(**OWN), TINY_DIMS)
    assert set(own.shares) == {"head", "prototypes"} and own.rules()[0].pattern == "prototypes.*"
    assert shared.rules() == ()


def test_heads_that_do_not_fit_are_errors() -> None:
    for key in ("head_hidden", "head_width", "head_layers", "freeze_prototypes"):
        with pytest.raises(ValidationError, match=f'{key} belongs to the shared head: set it in "dino"'):
            MimConfig(**SHARED, **{key: 5})
    mask = torch.ones(2, 2, 16, dtype=torch.bool)
    for change, message in (
        ({"bottleneck": True}, "need the same `bottleneck`"),
        ({"targets": "centering", "prototypes": 5}, "set prototypes = 24"),
    ):
        config = MimConfig(**(SHARED | change))
        batch = drawn_batch(config.views()["ssl"], rows=len(mask))
        with pytest.raises(UsageError, match=message):
            objective = Mim(config, TINY_DIMS)
            objective(FakeStep({"ssl": batch}, objective, shared=_shared()))


@pytest.mark.parametrize(
    ("partner", "words"), [("dno", 'did you mean "dino"?'), ("mim", "it names itself"), ("dino", None)]
)
def test_the_owner_of_the_head_is_checked_with_the_recipe(partner: str, words: str | None) -> None:
    change = [f"objectives.mim.share_head_with={partner}"]
    if words is None:
        assert load_recipe("smoke/vtp_s", change).objectives["mim"].share_head_with == partner
        return
    with pytest.raises(RecipeErrors) as caught:
        load_recipe("smoke/vtp_s", change)
    (problem,) = caught.value.problems
    assert (problem.key, words in problem.message) == ("objectives.mim.share_head_with", True)


def test_the_declared_chance_is_the_loss_of_equal_outputs() -> None:
    config = MimConfig(**OWN, student_temperature=1e9)
    mask = torch.zeros(2, 2, 16, dtype=torch.bool)
    mask[:, 0, :5] = mask[0, 1, :3] = True  # three of four crops
    term = _run(Mim(config, TINY_DIMS).double(), mask)[0].terms["distillation"].item()
    views = {"ssl": ViewSize(rows=2, masked=0.75)}
    assert config.chance(views, {}) == {"distillation": pytest.approx(term)}
    shared, owner = MimConfig(**SHARED), MimConfig(**{**OWN, "prototypes": 7})
    assert shared.chance(views, {"dino": owner}) == {"distillation": pytest.approx(0.75 * math.log(7))}
    assert shared.chance(views, {}) == {}
