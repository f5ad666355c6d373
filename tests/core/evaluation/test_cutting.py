"""Crops of an evaluation against torchvision's, and random ones by sample and view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from tests.agreement import Agreement
from tests.core.evaluation_sets import ArraySource
from vtp_core.data.crops.geometry import center_crop
from vtp_core.evaluation.named_protocol import Preparation
from vtp_core.evaluation.sets.cutting import cutter
from vtp_core.evaluation.sets.dataset import EvaluationSet

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


@pytest.mark.agrees("crops of evaluation protocols, in steps of 255", "torchvision", 1)
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            Preparation(crop="shorter_side", shorter=32, size=28),
            Compose([Resize(32, BICUBIC), CenterCrop(28)]),
        ),
        (Preparation(crop="shorter_side"), Compose([Resize(24, BICUBIC), CenterCrop(24)])),
        (Preparation(crop="squash"), Resize((24, 24), BILINEAR)),
    ],
)
def test_crops_are_torchvisions(how: Preparation, expected: object, agreement: Agreement) -> None:
    wanted = np.asarray(expected(Image.fromarray(IMAGE))).astype(int)  # type: ignore[operator]
    found = cutter(how, 24)(IMAGE, "a").permute(1, 2, 0).numpy().astype(int)
    agreement(found, wanted)


def test_the_default_is_adms() -> None:
    assert torch.equal(cutter(Preparation(), 24)(IMAGE, "a"), center_crop(IMAGE, 24))


def test_random_crops_are_functions_of_view_and_sample() -> None:
    ramp = np.zeros((64, 64, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64)[None] * 4, np.arange(64)[:, None] * 4
    how = Preparation(views=40, size=16)
    crops = [cutter(how, 99, view)(ramp, "a") for view in range(40)]
    assert all(crop.shape == (3, 16, 16) and crop.dtype == torch.uint8 for crop in crops)
    assert all(torch.equal(crop, cutter(how, 99, view)(ramp, "a")) for view, crop in enumerate(crops))
    assert not torch.equal(crops[0], cutter(how, 99, 0)(ramp, "b"))
    across = torch.stack([crop[0, :, -1].float().mean() - crop[0, :, 0].float().mean() for crop in crops])
    down = torch.stack([crop[1, -1].float().mean() - crop[1, 0].float().mean() for crop in crops])
    assert 10 <= int((across < 0).sum()) <= 30 and (down > 0).all()  # flipped or not, never upside down
    area = (across.abs() / 252) * (down / 252)
    assert 0.03 < area.min() < 0.3 and 0.6 < area.max() <= 1


def test_ranks_read_the_same_crops() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    data = EvaluationSet(name="d", source=ArraySource(images=images), how=Preparation(size=8), view=3)
    alone = {}
    for batch in data.batches(16, 2):
        alone.update(zip(batch.keys, batch.crops["global"], strict=True))
    for rank in (0, 1):
        for batch in data.batches(16, 3, rank, 2):
            for key, crop in zip(batch.keys, batch.crops["global"], strict=True):
                assert torch.equal(crop, alone[key]) and crop.shape == (1, 3, 8, 8)
