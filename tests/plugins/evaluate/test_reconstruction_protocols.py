"""Named protocols of the evaluator `reconstruction`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.evaluation.runner import evaluate
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_reconstruction.protocols import PROTOCOLS


def test_vtps_protocol_measures_float_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    vtp = PROTOCOLS["vtp-2512"]
    own = dataclasses.replace(vtp.preparation, encode="own")
    monkeypatch.setitem(
        PROTOCOLS,  # type: ignore[arg-type]
        "vtp-2512",
        dataclasses.replace(vtp, image_size=16, images=6, preparation=own),
    )
    evaluator = Reconstruction(ReconstructionConfig(protocol="vtp-2512"))
    model, held_out = toy_tokenizer(), drawn_set("val", 6, 0)
    with torch.no_grad():
        model.encoder.scale.fill_(0.9)
        (batch,) = held_out.batches(16, 6)
        pixels = batch.to(model.device).image
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        decoded = (model.decode(model.encode(pixels).latent).sample * std + mean).clamp(0, 1)
    errors = (decoded.double() - batch.image.double() / 255).square().mean((1, 2, 3))
    results = evaluate(model, {"r": evaluator}, held_out, rows=4)
    entry = results["psnr@vtp-2512"]
    assert entry["value"] == pytest.approx(float((-10 * errors.log10()).mean()), abs=1e-4)
    rounded = evaluate(model, {"r": Reconstruction(ReconstructionConfig())}, held_out)["psnr"]
    assert abs(float(entry["value"]) - float(rounded["value"])) > 1e-4
    expected = (
        "vtp-2512: reconstruction-v1 (mode latent, mean of images); centre-crop-v1, float pixels 16 px;"
    )
    assert str(entry["protocol"]).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "vtp"}, "'vtp' is none of imagenet256-reconstruction-v1, vtp-2512"),
        ({"protocol": "vtp-2512", "lpips": "lpips_alex"}, 'is measured with lpips = "lpips_vgg"'),
        ({"force": True}, "force needs a protocol"),
    ],
)
def test_tables_that_contradict_their_protocol_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReconstructionConfig.model_validate(settings)
