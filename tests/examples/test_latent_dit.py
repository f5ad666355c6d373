"""The round trip: latents out, a plain PyTorch transformer trained on the files, its samples decoded."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from vtp_core import load
from vtp_core.cli.main import main

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "latent_dit.py"
PART = '{ use = "samples", part = [0.0, 0.03] }'


@pytest.mark.slow
def test_latents_out_a_plain_transformer_and_images_back(tmp_path: Path) -> None:
    runner = CliRunner()
    latents, artefact, samples = tmp_path / "latents", tmp_path / "tokenizer", tmp_path / "samples"
    commands: tuple[list[str], ...] = (
        ["encode", "vtp-nano", "--source", PART, "-o", str(latents), "--shard-samples", "16"],
        ["export", "vtp-nano", str(artefact)],
    )
    for command in commands:
        result = runner.invoke(main, command)
        assert result.exit_code == 0, result.output
    example = runpy.run_path(str(EXAMPLE))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = example["main"](str(latents), str(artefact), str(samples), 60, 16)
    # It begins near zero velocity, whose loss is the data's second moment plus that of the noise.
    assert np.mean(losses[-10:]) < 0.92 * np.mean(losses[:3])
    files = sorted(samples.iterdir())
    shown = np.stack([np.asarray(Image.open(file)) for file in files]).astype(float)
    assert shown.shape == (16, 64, 64, 3) and (shown.std((1, 2, 3)) > 5).all()
    # The statistics of config.json are those by which the tokenizer itself comes back from unit latents.
    config = json.loads((artefact / "config.json").read_text())
    model = load(artefact)
    unit = torch.randn(2, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        own, expected = model.decode(unit * std + mean).sample, model.decode_normalized(unit).sample
    torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)
