"""``l1`` and ``l2`` against plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from pydantic import ValidationError

from vtp_core.objective import Objective
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.view import ViewNeed
from vtp_plugins.reconstruction.config import ReconstructionConfig
from vtp_plugins.reconstruction.objective import L1, L2

OBJECTIVES = {"l1": L1, "l2": L2}


@pytest.mark.parametrize("use", ["l1", "l2"])
@pytest.mark.parametrize("space", ["normalized", "unit"])
@pytest.mark.parametrize("value_range", ["imagenet", (0.0, 1.0), (-1.0, 1.0)])
def test_value_and_gradient(use: str, space: str, value_range: object) -> None:
    rng = numpy.random.default_rng(0)
    mean = numpy.array(IMAGENET_MEAN).reshape(3, 1, 1)
    std = numpy.array(IMAGENET_STD).reshape(3, 1, 1)
    unit = rng.uniform(-0.2, 1.2, (4, 3, 32, 32))  # a decoder may leave the range of real pixels
    if value_range == "imagenet":
        image = (unit - mean) / std
    else:
        low, high = value_range  # type: ignore[misc]
        image = low + unit * (high - low)
    batch = drawn_batch(ViewNeed(), rows=4, dtype=torch.float64)
    target = batch.image.numpy() * std + mean
    factor = 1.0 if space == "unit" else 1 / std
    error = (unit - target) * factor
    expected = numpy.abs(error).mean() if use == "l1" else numpy.square(error).mean()
    clipped = numpy.square(unit.clip(0, 1) - target.clip(0, 1)).mean((1, 2, 3))

    dims = replace(TINY_DIMS, value_range=value_range)  # type: ignore[arg-type]
    config = ReconstructionConfig(use=use, view="main", space=space)  # type: ignore[arg-type]
    objective = OBJECTIVES[use](config, dims)
    step = FakeStep({"main": batch}, objective, dims=dims, images={"main": torch.from_numpy(image)})
    losses = objective(step)
    assert losses.terms["pixels"].item() == pytest.approx(expected, rel=1e-12)
    assert losses.report["psnr"].item() == pytest.approx((-10 * numpy.log10(clipped)).mean(), rel=1e-9)

    step.backward(losses)
    scale = numpy.ones((3, 1, 1)) * factor
    if value_range == "imagenet":
        scale = scale * std
    else:
        scale = scale / (high - low)
    slope = numpy.sign(error) if use == "l1" else 2 * error
    gradient = step.reconstruct("main").image.grad
    assert gradient is not None
    numpy.testing.assert_allclose(gradient.numpy(), slope * scale / error.size, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("use", "rows"), [("l1", None), ("l2", 4)])
def test_conformance(use: str, rows: int | None) -> None:
    check_objective(OBJECTIVES[use], ReconstructionConfig(use=use, view="main", rows=rows))


def test_a_large_bfloat16_image_gives_a_finite_float32_loss() -> None:
    config = ReconstructionConfig(use="l2", view="main")
    image = (torch.randn(8, 3, 32, 32) * 1e4).bfloat16()
    step = FakeStep({"main": drawn_batch(ViewNeed())}, images={"main": image})
    losses = L2(config, TINY_DIMS)(step)
    assert losses.total().dtype == torch.float32 and torch.isfinite(losses.total())


def test_a_perfect_image_has_no_error_and_the_highest_psnr() -> None:
    batch = drawn_batch(ViewNeed())
    step = FakeStep({"main": batch}, images={"main": batch.image})
    objective: Objective = L1(ReconstructionConfig(use="l1", view="main"), TINY_DIMS)
    losses = objective(step)
    assert losses.total().item() == 0 and losses.report["psnr"].item() == pytest.approx(100, abs=1e-3)


def test_the_config_refuses_another_space() -> None:
    with pytest.raises(ValidationError, match="space"):
        ReconstructionConfig(use="l1", view="main", space="signed")  # type: ignore[arg-type]
