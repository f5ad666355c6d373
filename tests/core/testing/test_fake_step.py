"""The fake step's verbs and batches mean what the real step's do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from vtp_core.config import ObjectiveConfig
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Losses, Tokens
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.testing import TINY_DIMS, FakeStep, drawn_batch, run_ranks
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

NEED = ViewNeed(crops=("global", "local"), masked=True, text=True, label=True, latent=True, layers=(0,))


def test_ranks_hold_the_rows_of_one_rank_dealt_round_robin() -> None:
    whole = drawn_batch(NEED, rows=6)
    parts = run_ranks(3, lambda world: drawn_batch(NEED, rows=6, world=world))
    for rank, part in enumerate(parts):
        assert part.keys == whole.keys[rank::3] and part.text == (whole.text or ())[rank::3]
        for name, crop in part.crops.items():
            assert torch.equal(crop, whole.crops[name][rank::3])
        assert part.masks is not None and whole.masks is not None
        assert torch.equal(part.masks.mask, whole.masks.mask[rank::3])
        assert torch.equal(part.masks.weight, whole.masks.weight[rank::3])
        assert part.latent is not None and whole.latent is not None
        assert torch.equal(part.latent, whole.latent[rank::3])


def test_mask_weights_add_up_to_one_in_masked_crops() -> None:
    masks = drawn_batch(NEED).masks
    assert masks is not None
    total = masks.weight.sum(-1)
    assert torch.allclose(total, masks.mask.any(-1).float())
    assert 0 < total.sum() < total.numel()


class Config(ObjectiveConfig):
    def views(self) -> Mapping[str, ViewNeed]:
        return {"main": NEED}


class Headed(Objective):
    """Declares everything, and a teacher of its head."""

    teachers = ("head", "tokenizer.encoder", "tokenizer.bottleneck")

    def __init__(self, dims: Dims = TINY_DIMS) -> None:
        super().__init__(Config(use="test.headed"), dims)
        self.head = nn.Linear(dims.width, 2)


def _step(objective: Objective | None = None, **options: Any) -> FakeStep:
    return FakeStep({"main": drawn_batch(NEED)}, objective, **options)


def test_verbs_return_leaves_and_remember_them() -> None:
    step = _step(Headed())
    features = step.encode("main")
    assert features.cls.is_leaf and features.cls.requires_grad
    assert features["local"].patches.shape == (8, 3, 4, 16)
    assert features["global"].layers[0].shape == (8, 2, 16, 16)
    assert (
        step.encode("main").cls is features.cls and step.encode("main", masked=True).cls is not features.cls
    )
    image = step.reconstruct("main").image
    assert image.shape == (8, 3, 32, 32) and image.is_leaf
    step.backward(image.sum())
    assert [name for name, leaf in step.cuts.items() if leaf.grad is not None] == ["reconstruct(main)"]
    assert image.grad is not None and (image.grad == 1).all()


def test_backward_goes_through_own_modules() -> None:
    objective = Headed()
    step = _step(objective)
    step.backward(Losses(terms={"x": step.call(objective.head, step.encode("main").cls).sum()}))
    weight, cls = objective.head.weight, step.encode("main").cls
    assert weight.grad is not None and cls.grad is not None
    torch.testing.assert_close(weight.grad, cls.detach().sum((0, 1)).expand(2, -1))
    torch.testing.assert_close(cls.grad, weight.detach().sum(0).expand_as(cls))


def test_attached_features_reach_the_pixels() -> None:
    step = _step()
    pixels = step.batch("main").crops["global"].requires_grad_()
    step.encode("main", attached=True).cls.sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_the_teacher_has_no_gradient_and_starts_as_the_student() -> None:
    objective = Headed()
    step = _step(objective)
    target, student = step.teacher.encode("main").cls, step.encode("main").cls
    assert not target.requires_grad and torch.equal(target, student)
    teacher = step.teacher.own(objective.head)
    assert isinstance(teacher, nn.Linear) and teacher is step.teacher.own(objective.head)
    assert teacher is not objective.head and torch.equal(teacher.weight, objective.head.weight)
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())


def test_given_tensors_are_served_as_leaves() -> None:
    tokens = Tokens(patches=torch.ones(2, 1, 4, 3), grid=(2, 2))
    given, image = Features(crops={"global": tokens}), torch.rand(2, 3, 5, 5)
    batches = {"main": drawn_batch(ViewNeed(), rows=2), "other": drawn_batch(ViewNeed(), rows=2)}
    latent = Latent(crops={"global": tokens})
    step = FakeStep(batches, features={"main": given}, latents={"other": latent}, images={"other": image})
    patches = step.encode("main").patches
    assert torch.equal(patches, tokens.patches) and patches.is_leaf and patches.requires_grad
    with pytest.raises(ValueError, match="no class token"):
        _ = step.encode("main").cls
    made = step.reconstruct("other")
    assert torch.equal(made.image, image) and torch.equal(made.latent.z, latent.z)
    assert torch.equal(step.critic_step().detached("other").image, image)


def test_what_a_run_refuses_is_refused() -> None:
    class Plain(Objective):
        def views(self) -> Mapping[str, ViewNeed]:
            return {"main": ViewNeed()}

    objective = Plain(ObjectiveConfig(use="test.plain"), TINY_DIMS)
    objective.head = nn.Linear(16, 2)
    step = FakeStep({"main": drawn_batch(ViewNeed())}, objective)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("'plain' uses view 'other', which its views\\(\\) does not declare", lambda: step.encode("other")),
        ("masked=True", lambda: step.encode("main", masked=True)),
        ("no reconstruction of view 'main' was made", lambda: step.detached("main")),
        ("add a table \\[frozen.dino\\]", lambda: step.frozen("dino")),
        ("no objective shares 'dino.head'", lambda: step.shared("dino.head")),
        ("list it in the objective's `teachers`", lambda: step.teacher.own(objective.head)),
        ("list it in the objective's `teachers`", lambda: step.teacher.encode("main")),
        ("no reconstruction of view 'main'", lambda: step.critic_step().detached("main")),
        ("critic_loss may use step.detached", lambda: step.critic_step().reconstruct("main")),
        ("critic_loss may not run the shared networks", lambda: step.critic_step().encode("main")),
    ]
    for message, call in refused:
        with pytest.raises(UsageError, match=message):
            call()
    assert step.batch("main").text is None and step.batch("main").label is None
    with pytest.raises(ValueError, match="`at` must be a tensor that a verb"):
        step.balance(torch.zeros((), requires_grad=True), torch.zeros(3, requires_grad=True))


def test_frozen_and_shared_modules_are_found() -> None:
    head, judge = nn.Linear(16, 2), nn.Linear(3, 1)
    step = _step(Headed(), frozen={"judge": judge}, shared={"dino.head": head})
    shared, frozen = step.shared("dino.head"), step.frozen("judge")
    assert isinstance(shared, nn.Linear) and torch.equal(shared.weight, head.weight)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert isinstance(step.teacher.own(shared), nn.Linear)


def test_confine_and_balance() -> None:
    step = FakeStep({"main": drawn_batch(ViewNeed())}, others=3.0)
    image = step.reconstruct("main").image
    weight = torch.ones((), requires_grad=True)
    loss = weight * image.square().mean()
    term, scale = step.balance(loss, image)
    assert scale.item() == pytest.approx(3.0 / ((2 * image / image.numel()).norm().item() + 1e-4), rel=1e-5)
    assert term.item() == pytest.approx(loss.item() * scale.item(), rel=1e-5)
    step.backward(term)
    assert weight.grad is None and image.grad is not None
    assert torch.allclose(image.grad, scale * 2 * image.detach() / image.numel())


def test_the_gradient_of_others_has_the_same_norm_at_any_world_size() -> None:
    def scale(world: World) -> torch.Tensor:
        step = FakeStep({"main": drawn_batch(ViewNeed(), world=world)}, world=world, others=3.0)
        image = step.reconstruct("main").image
        return step.balance(step.mean(image.square()), image)[1]

    alone = scale(World())
    for weight in run_ranks(2, scale):
        torch.testing.assert_close(weight, alone)


def test_random_numbers_go_by_global_row() -> None:
    def numbers(world: World) -> torch.Tensor:
        step = FakeStep({"main": drawn_batch(ViewNeed(), rows=4, world=world)}, world=world)
        return torch.cat([step.randn(4 // step.world_size, 3), step.rand(4 // step.world_size, 3)], 1)

    whole = run_ranks(1, numbers)[0]
    parts = run_ranks(2, numbers)
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
