"""A stage that starts from another run's weights: all of them, or what the recipe names."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.core.run.tiny_run import RECIPE, one_line, state, vtp
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.ops import resample_patch_embedding, resample_pixels, resample_positions
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.setup.build import build_run_networks
from vtp_core.run.setup.init_from import init_from
from vtp_core.run.setup.recipe_change import check_recipe
from vtp_core.training.saving.checkpoint import find_latest
from vtp_core.training.saving.state import model_state
from vtp_plugins.vit.encoder import VitEncoder

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
    "other shapes": (
        ["bottleneck.channels=8"],
        "tokenizer.bottleneck.proj.weight has shape (4, 32), here (8, 32)",
    ),
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


OTHER = ["bottleneck.channels=8", "encoder.patch=4", "objectives.clip.context=24", "encoder.mlp_ratio=2.0"]


def started(folder: Path, *sets: str) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors with which a run would start, and what it would print."""
    (folder / "tiny.toml").write_text(RECIPE)
    plugins = load_plugins()
    recipe = load_recipe(folder / "tiny.toml", sets, plugins)
    networks, _ = build_run_networks(recipe, plugins)
    assert recipe.init_from is not None
    lines = init_from(recipe.init_from, networks, plugins).lines
    return model_state(networks), "\n".join(lines)


def test_other_sizes_are_named_one_by_one_with_a_way_on(first: Path, tmp_path: Path) -> None:
    result = vtp(tmp_path, f'init_from="{first / "run"}"', *STILL, *OTHER)
    assert result.exit_code == 5
    line = one_line(result)
    for entry in (
        "has 11 tensors of other shapes",
        "tokenizer.encoder.patch_embed.proj.weight has shape (32, 3, 8, 8), here (32, 3, 4, 4)",
        "tokenizer.encoder.block.*.mlp.",
        "tokenizer.bottleneck.proj.weight has shape (4, 32), here (8, 32)",
        "tokenizer.decoder.proj_in.weight has shape (32, 4, 1, 1), here (32, 8, 1, 1)",
        "tokenizer.decoder.proj_out.bias has shape (192,), here (48,)",
        "objectives.clip.text.positions has shape (16, 16), here (24, 16)",
        f'sizes (from = "{first / "run"}" in encoder, bottleneck, decoder), or start these fresh',
        f'init_from = {{ path = "{first / "run"}", match = "shapes" }}',
        "resample = true fits 4 of them",
    ):
        assert entry in line
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_what_fits_is_loaded_and_the_rest_starts_fresh(first: Path, tmp_path: Path) -> None:
    table = f'init_from={{path = "{first / "run"}", match = "shapes"}}'
    before, (after, lines) = state(first), started(tmp_path, table, *OTHER, "encoder.depth=2", "run.seed=4")
    fitting = [name for name in after if name in before and before[name].shape == after[name].shape]
    assert len(fitting) > 40 and all(torch.equal(before[name], after[name]) for name in fitting)
    fresh = dict(re.findall(r"^  (\S+): (\d+) tensors, starts fresh$", lines, re.MULTILINE))
    assert sum(map(int, fresh.values())) == len(after) - len(fitting)
    assert fresh["objectives.clip"] == fresh["tokenizer.bottleneck"] == "1"
    assert "proj.weight has shape (4, 32), here (8, 32), starts fresh" in lines


def test_nothing_that_fits_is_an_error(first: Path, tmp_path: Path) -> None:
    table = f'init_from={{path = "{first / "run"}", match = "shapes"}}'
    sizes = ("encoder.width=48", "encoder.patch=4", "decoder.width=48", "bottleneck.channels=8")
    with pytest.raises(CheckpointError, match="holds no weights that fit"):
        started(tmp_path, table, *sizes, "encoder.mlp_ratio=1.0", "decoder.mlp_ratio=1.0")


@pytest.mark.parametrize("source", ["run", "run/tokenizer"])
def test_patches_and_positions_are_resampled_on_request(first: Path, tmp_path: Path, source: str) -> None:
    table = f'init_from={{path = "{first / source}", resample = true}}'
    sizes = ("encoder.patch=4", "objectives.clip.context=24")
    before, (after, lines) = state(first), started(tmp_path, table, *sizes)
    expected = {
        "tokenizer.encoder.patch_embed.proj.weight": resample_patch_embedding,
        "tokenizer.decoder.proj_out.weight": resample_pixels,
        "tokenizer.decoder.proj_out.bias": resample_pixels,
        "objectives.clip.text.positions": resample_positions,
    }
    for name, function in expected.items():
        assert torch.equal(after[name], function(before[name], after[name].shape)), name
        assert f"{name} has shape {tuple(before[name].shape)}, here" in lines
    assert all(torch.equal(before[name], after[name]) for name in after if name not in expected)


def test_a_resampler_of_no_tensor_is_an_error(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VitEncoder, "resamplers", lambda _: {"patch_embd.weight": resample_patch_embedding})
    with pytest.raises(UsageError, match=r"names tokenizer\.encoder\.patch_embd\.weight, which is no tensor"):
        started(tmp_path, f'init_from="{first / "run"}"')


def test_a_run_that_was_written_before_goes_on(first: Path) -> None:
    """Its manifest has an init_from table without the keys that came later."""
    manifest = find_latest(first / "run").manifest
    now, older = (
        {**manifest.recipe, "init_from": {"path": "x", "fresh": ["clip"], **keys}}
        for keys in ({"match": "all", "resample": False}, {})
    )
    assert check_recipe(first, replace(manifest, recipe=older), now, load_plugins()) == []


def test_a_shipped_tokenizer_with_its_sizes(tmp_path: Path) -> None:
    parts = ("encoder", "bottleneck", "decoder")
    sizes = (f"{part}.from=vtp-nano" for part in parts)
    found, _ = started(tmp_path, 'init_from={path = "VTP_Nano", fresh = ["clip"]}', *sizes)
    nano = load("vtp-nano")
    for part in parts:
        for name, tensor in getattr(nano, part).state_dict().items():
            assert torch.equal(found[f"tokenizer.{part}.{name}"], tensor), name


def test_a_frozen_network_with_the_weights_of_a_shipped_tokenizer(tmp_path: Path) -> None:
    nano = load("vtp-nano")
    sizes = 'use = "vit", width = 192, depth = 6, heads = 3, mlp_ratio = 3.0, patch = 8'
    (tmp_path / "tiny.toml").write_text(RECIPE)
    frozen = f'frozen.old={{ {sizes}, weights = "vtp-nano" }}'
    networks, _ = build_run_networks(load_recipe(tmp_path / "tiny.toml", [frozen]), load_plugins())
    weights = networks.frozen["old"].state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in nano.encoder.state_dict().items())
