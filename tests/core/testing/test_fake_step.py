"""The fake step's verbs and batches mean what the real step's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vtp_core.errors import UsageError
from vtp_core.features import Features, Tokens
from vtp_core.testing import FakeStep, drawn_batch, run_ranks
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


def test_verbs_return_leaves_and_remember_them() -> None:
    step = FakeStep({"main": drawn_batch(NEED)}, needs={"main": NEED})
    features = step.encode("main")
    assert features.cls.is_leaf and features.cls.requires_grad
    assert features["local"].patches.shape == (8, 3, 4, 16) and features["global"].layers[0].shape == (
        8,
        2,
        16,
        16,
    )
    assert step.encode("main") is features and step.encode("main", masked=True) is not features
    image = step.reconstruct("main").image
    assert image.shape == (8, 3, 32, 32) and image.is_leaf
    image.sum().backward()
    assert [name for name, leaf in step.cuts.items() if leaf.grad is not None] == ["reconstruct(main)"]
    assert not step.detached("main").image.requires_grad


def test_attached_features_reach_the_pixels() -> None:
    batch = drawn_batch(NEED)
    batch.crops["global"].requires_grad_()
    step = FakeStep({"main": batch}, needs={"main": NEED})
    step.encode("main", attached=True).cls.sum().backward()
    assert batch.crops["global"].grad is not None and batch.crops["global"].grad.abs().sum() > 0


def test_the_teacher_is_another_network_without_gradient() -> None:
    step = FakeStep({"main": drawn_batch(NEED)}, needs={"main": NEED})
    target, student = step.teacher.encode("main").cls, step.encode("main").cls
    assert not target.requires_grad and not torch.equal(target, student)
    head = nn.Linear(16, 2)
    twin = step.teacher.own(head)
    assert twin is step.teacher.own(head) and twin is not head
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_given_features_are_used_as_leaves() -> None:
    given = Features(crops={"global": Tokens(patches=torch.ones(2, 1, 4, 3), grid=(2, 2))})
    step = FakeStep({"main": drawn_batch(ViewNeed(), rows=2)}, features={"main": given})
    patches = step.encode("main").patches
    assert torch.equal(patches, given.patches) and patches.requires_grad
    with pytest.raises(ValueError, match="no class token"):
        _ = step.encode("main").cls


def test_what_was_not_declared_is_refused() -> None:
    step = FakeStep({"main": drawn_batch(ViewNeed())}, needs={"main": ViewNeed()})
    with pytest.raises(UsageError, match="'other' is used but not declared"):
        step.encode("other")
    with pytest.raises(UsageError, match="masked=True"):
        step.encode("main", masked=True)
    with pytest.raises(UsageError, match="frozen network 'dino'"):
        step.frozen("dino")
    assert step.batch("main").text is None and step.batch("main").label is None


def test_confine_and_balance() -> None:
    step = FakeStep({"main": drawn_batch(ViewNeed())}, others=3.0)
    image = step.reconstruct("main").image
    weight = torch.ones((), requires_grad=True)
    loss = weight * image.square().mean()
    term, scale = step.balance(loss, image)
    assert scale.item() == pytest.approx(3.0 / ((2 * image / image.numel()).norm().item() + 1e-4), rel=1e-5)
    assert term.item() == pytest.approx(loss.item() * scale.item(), rel=1e-5)
    term.backward()
    assert weight.grad is None and image.grad is not None
    assert torch.allclose(image.grad, scale * 2 * image.detach() / image.numel())


def test_random_numbers_go_by_global_row() -> None:
    def numbers(world: object) -> torch.Tensor:
        step = FakeStep({"main": drawn_batch(ViewNeed(), rows=4, world=world)}, world=world)  # type: ignore[arg-type]
        return torch.cat([step.randn(4 // step.world_size, 3), step.rand(4 // step.world_size, 3)], 1)

    whole = run_ranks(1, numbers)[0]
    parts = run_ranks(2, numbers)
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
