"""A stage that starts from another run's weights: all of them, or what the recipe names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.core.run.tiny_run import RECIPE, one_line, state, vtp

STILL = ("optimizer.lr=1e-30", "run.steps=1", "ema.networks=[]")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one step."""
    folder = tmp_path_factory.mktemp("first")
    assert vtp(folder, "run.steps=1").exit_code == 0
    return folder


def moved(first: Path, second: Path) -> set[str]:
    """Owners of the second run that do not have the first one's weights."""
    before, after = state(first), state(second)
    names = [name for name in after if name.startswith(("tokenizer.", "objectives."))]
    same = [name for name in names if name in before and torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[:2]) for name in set(names) - set(same)}


def test_from_a_run_and_from_its_checkpoint(first: Path, tmp_path: Path) -> None:
    for number, source in enumerate((first / "run", first / "run/checkpoints/step-00000001")):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = vtp(folder, f'init_from="{source}"', *STILL)
        assert result.exit_code == 0, result.output
        assert moved(first, folder) == set()


REFUSED = {
    "fewer tensors there": (
        ["encoder.layer_scale=0.1"],
        "lacks tokenizer.encoder.block.0.ls1.gamma and 1 more",
    ),
    "more tensors there": (
        ["decoder.qk_norm=false"],
        "has tokenizer.decoder.block.0.attn.k_norm.weight and 1 more",
    ),
    "an objective in part": (
        ["objectives.clip.layer_scale=0.1"],
        "lacks objectives.clip.text.blocks.0.scale1",
    ),
    "other shapes": (["bottleneck.channels=8"], "tokenizer.bottleneck.proj.weight has shape (4, 32)"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_another_network_is_refused(first: Path, tmp_path: Path, changes: list[str], message: str) -> None:
    result = vtp(tmp_path, f'init_from="{first / "run"}"', *STILL, *changes)
    assert result.exit_code == 5
    assert message in one_line(result)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_what_the_recipe_names_starts_fresh(first: Path, tmp_path: Path) -> None:
    table = f'init_from={{path = "{first / "run"}", fresh = ["*.ls?.gamma", "clip"]}}'
    result = vtp(tmp_path, table, *STILL, "encoder.layer_scale=0.1", "run.seed=4")
    assert result.exit_code == 0, result.output
    assert "tokenizer.encoder: 2 tensors, starts fresh" in result.output
    assert "objectives.clip: " in result.output
    assert moved(first, tmp_path) == {"tokenizer.encoder", "objectives.clip"}
    assert "fresh" in (tmp_path / "run/resolved.toml").read_text("utf-8")


def test_an_objective_under_another_name(first: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("[objectives.clip]", "[objectives.contrast]")
    result = vtp(tmp_path, f'init_from="{first / "run"}"', *STILL, recipe=recipe)
    assert result.exit_code == 5
    assert '"contrast" would start fresh' in one_line(result) and '"clip"' in one_line(result)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    table = f'init_from={{path = "{first / "run"}", fresh = ["contrast"]}}'
    assert vtp(tmp_path, table, *STILL, recipe=recipe).exit_code == 0
