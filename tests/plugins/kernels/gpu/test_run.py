"""A layer and a run on a GPU, with the implementations of this package. Run by `make gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.core.run.tiny_run import last_checkpoint, vtp
from tests.plugins.kernels.gpu.device import ATTENTION, DEVICE, MARKS, attention
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.encoder import VitEncoder

pytestmark = MARKS


@pytest.mark.parametrize("name", ATTENTION)
def test_an_encoder_gives_what_it_gives_on_a_cpu(name: str) -> None:
    """Global and local crops packed into one call, in bfloat16 by autocast."""
    torch.manual_seed(0)
    encoder = VitEncoder(VitEncoderConfig(use="vit", width=128, depth=2, heads=2, patch=8))
    crops = [torch.randn(2, 2, 3, 64, 64), torch.randn(2, 3, 3, 32, 32)]
    with torch.no_grad():
        expected = encoder(crops, [None, None])
        encoder.to(DEVICE).use_attention(attention(name))
        with torch.autocast(DEVICE, torch.bfloat16):
            found = encoder([x.to(DEVICE) for x in crops], [None, None])
    for mine, right in zip(found, expected, strict=True):
        error = (mine.patches.cpu() - right.patches).norm() / right.patches.norm()
        assert error <= 2e-2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_trains_and_resumes(precision: str, tmp_path: Path) -> None:
    stop = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'
    sets = (f"run.device={DEVICE}", f"run.precision={precision}", stop)
    assert vtp(tmp_path, *sets).exit_code == 75
    record = last_checkpoint(tmp_path)["extra"]["kernels"]["attention"]
    assert record["device"] == DEVICE and "sdpa" in record["names"]
    result = vtp(tmp_path, *sets, resume=True)
    assert result.exit_code == 0, result.output
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert (environment["cuda"] is not None) == (DEVICE == "cuda")
