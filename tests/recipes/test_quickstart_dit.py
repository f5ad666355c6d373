"""The generator of the quickstart on the tokenizer in the package, from cached latents to samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import vtp_core
from vtp_core.artefact.fingerprint import name_of
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.train import train
from vtp_plugins.samples.source import CLASSES

PLUGINS = load_plugins()
SMALL = (
    "run.steps=3",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "views.image.rows=8",
    "objectives.generation.transformer={ width = 32, depth = 1, heads = 2, patch = 2 }",
    "objectives.generation.statistics_rows=16",
    "objectives.generation.sampling.steps=2",
    'data.source.source={ use = "samples", split = "val", part = [0.0, 0.15] }',
    'evaluate.source={ use = "samples", split = "val", part = [0.15, 0.3] }',
    'evaluate.train_source={ use = "samples", split = "val", part = [0.0, 0.15] }',
    "evaluators.generated.samples=16",
    'evaluators.generated.weights="random"',
    "evaluators.generated.resize=32",
)


@pytest.mark.slow
def test_it_trains_on_cached_latents_and_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = train(load_recipe("quickstart_dit_nano", SMALL, PLUGINS), PLUGINS)
    assert done is not None
    nano, trained = vtp_core.load("vtp-nano"), vtp_core.load(done.folder)
    assert trained.config is not None and trained.config.classes == CLASSES
    assert trained.config.fingerprint == name_of(nano).fingerprint
    for part in ("encoder", "bottleneck", "decoder"):
        before, after = getattr(nano, part).state_dict(), getattr(trained, part).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert {"gfd_random", "gkd_random"} <= done.results.keys()
    rows = json.loads((done.folder / "samples" / "samples.json").read_text())["generated"]["rows"]
    assert [row["title"] for row in rows] == list(CLASSES)
    assert "Samples of the generator" in (done.folder / "report.html").read_text()

    # A second run reads the same files, and a resumed one ends as the first.
    (cache,) = (tmp_path / "runs" / "latents").iterdir()
    times = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = load_recipe("quickstart_dit_nano", (*SMALL, 'run.out="again"'), PLUGINS)
    monkeypatch.setattr("vtp_core.run.train.finish", lambda run: {})
    train(again, PLUGINS)
    (last,) = (tmp_path / "again" / "checkpoints").glob("step-00000003")
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert train(again, PLUGINS, resume=True) is not None
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == times
    first, second = (
        load_file(folder / "tokenizer/heads/generation/model.safetensors")
        for folder in (done.folder, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    command = ["generate", str(done.folder), "-n", "4", "--classes", "food,people", "--grid", "grid.png"]
    result = CliRunner().invoke(main, [*command, "-o", "out", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["classes"] == ["food", "people"] * 2
    assert Path("grid.png").is_file() and len(list(Path("out").glob("*.png"))) == 4

    other = vtp_core.load("vtp-nano")
    next(iter(other.bottleneck.parameters())).add_(0.1)
    other.save("other")
    wrong = load_recipe(
        "quickstart_dit_nano", (*SMALL, 'run.out="wrong"', 'data.source.tokenizer="other"'), PLUGINS
    )
    with pytest.raises(CheckpointError, match=r"source default belongs to the tokenizer vtp_nano \("):
        train(wrong, PLUGINS)


def test_both_recipes_are_valid_and_small() -> None:
    """Their transformer has a few million parameters, and the two differ in the tokenizer alone."""
    from vtp_plugins.generation.network import LightningDit

    recipes = [load_recipe(name, (), PLUGINS) for name in ("quickstart_dit", "quickstart_dit_nano")]
    first, second = (recipe.model_dump(mode="json") for recipe in recipes)
    differing = {key for key in first if first[key] != second[key]}
    assert differing == {"name", "init_from", "run", "data", "encoder", "decoder"}
    config = recipes[0].objectives["generation"]
    network = LightningDit(config.transformer, 32, config.classes)  # type: ignore[attr-defined]
    assert 1e6 < sum(np.prod(parameter.shape) for parameter in network.parameters()) < 3e6
