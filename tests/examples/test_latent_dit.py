"""The round trip: latents out, a plain PyTorch transformer trained on the files, its samples decoded."""

from __future__ import annotations

import ast
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


def test_it_has_40_lines_of_code_at_most() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            inside |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = EXAMPLE.read_text().splitlines()
    assert sum(bool(line.strip()) and at not in inside for at, line in enumerate(lines, 1)) <= 40


@pytest.mark.slow
@torch.no_grad()
def test_latents_out_a_plain_transformer_and_images_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    latents, artefact, samples = tmp_path / "latents", tmp_path / "tokenizer", tmp_path / "sample"
    commands: tuple[list[str], ...] = (
        ["encode", "vtp-nano", "--source", PART, "-o", str(latents), "--shard-samples", "16"],
        ["export", "vtp-nano", str(artefact)],
    )
    for command in commands:
        result = runner.invoke(main, command)
        assert result.exit_code == 0, result.output
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), str(latents), str(artefact), str(samples), "40"])
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        example = runpy.run_path(str(EXAMPLE))
    net, data, mean = example["net"], example["data"], example["data"].mean(0)

    # On noise that it has not seen it does better than the mean velocity, at times of the whole interval.
    draws = torch.Generator().manual_seed(1)
    clean = data[torch.randint(len(data), (128,), generator=draws)]
    noise, time = torch.randn(clean.shape, generator=draws), torch.linspace(0, 1, 128)[:, None, None, None]
    found = (net((1 - time) * noise + time * clean, time) - (clean - noise)).square().mean()
    assert found < 0.85 * (mean - (clean - noise)).square().mean()

    # The samples have found where the drawings are; noise has not.
    def alike(z: torch.Tensor) -> float:
        return float(torch.cosine_similarity(z.mean(0).flatten(), mean.flatten(), dim=0))

    assert alike(example["sample"]) > 0.15 > 3 * abs(alike(torch.randn(16, *mean.shape, generator=draws)))

    # The images are what the tokenizer itself makes of them with its statistics.
    model = load(artefact)
    expected = model.postprocess(model.decode_normalized(example["sample"]).sample)
    files = sorted(tmp_path.glob("sample*.png"))
    shown, own = (np.stack([np.asarray(image, float) for image in images]) for images in (
        [Image.open(file) for file in files], expected
    ))  # fmt: skip
    assert shown.shape == (16, 64, 64, 3) and np.abs(shown - own).max() <= 1
    torch.testing.assert_close(
        model.decode(data[:4] * example["std"] + example["mean"]).sample,
        model.decode_normalized(data[:4]).sample, atol=1e-4, rtol=1e-4,
    )  # fmt: skip
