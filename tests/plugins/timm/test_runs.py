"""Runs on a frozen network of timm: what is trained, what is saved, where the weights have to be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_hook

import vtp_core
from tests.core.run.tiny_run import one_line, state
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.outline import outline
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import load_plugins
from vtp_plugins.pretrained.files import fingerprint
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.encoder import TimmEncoder
from vtp_plugins.timm.weights import leave_out

pytestmark = pytest.mark.slow

NAME = "vit_small_patch16_dinov3.lvd1689m"
OPTIONS = {"embed_dim": 32, "depth": 2, "num_heads": 2}
RECIPE = """\
schema = 1
name = "frozen"

[run]
steps = 1
seed = 3
threads = 1

[data.source]
use = "samples"
split = "val"

[views.rec]
rows = 2
size = 32
augment = "crop"

[encoder]
use = "timm"
name = "{name}"
weights = "{weights}"
options = {{ embed_dim = 32, depth = 2, num_heads = 2 }}

[bottleneck]
use = "linear"
channels = 4

[decoder]
use = "vit"
width = 32
depth = 1
heads = 2

[objectives.l1]
use = "l1"
view = "rec"

[optimizer]
lr = 1e-3

[ema]
networks = ["tokenizer.decoder"]

[evaluate]
limit = 2
"""
ADAPTED = """
[frozen.copy]
use = "timm"
name = "{name}"
weights = "{weights}"
options = {{ embed_dim = 32, depth = 2, num_heads = 2 }}

[objectives.anchor]
use = "anchor"
view = "rec"
network = "copy"

[objectives.align]
use = "align"
view = "rec"
network = "copy"
width = 32
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = timm.create_model(NAME, **OPTIONS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(network.state_dict(), tmp_path / "dino.safetensors")
    return tmp_path / "dino.safetensors"


def run(folder: Path, weights: Path, *sets: str, recipe: str = RECIPE, resume: bool = False) -> Result:
    path = folder / "frozen.toml"
    path.write_text(recipe.format(name=NAME, weights=weights))
    chosen = [part for value in (f"run.out={folder / 'run'}", *sets) for part in ("-s", value)]
    more = ["--resume", "--allow-change"] if resume else []
    return CliRunner().invoke(main, ["run", str(path), *chosen, *more])


def digest(weights: Path) -> str:
    table = TimmConfig(name=NAME, weights=str(weights), options=OPTIONS)
    return fingerprint(TimmEncoder(table).network.state_dict())


def test_a_frozen_network_runs_once_a_step_and_is_saved_once(tmp_path: Path, weights: Path) -> None:
    calls: list[int] = []
    hook = register_module_forward_hook(
        lambda module, _, __: calls.append(1) if isinstance(module, TimmEncoder) else None
    )
    second = '\n[objectives.l2]\nuse = "l1"\nview = "rec"\n'
    counts, hashed = [], digest(weights)
    try:
        for steps in (1, 4):  # the steps 1, then 2 to 4 without the file; both with what a finished run makes
            calls.clear()
            result = run(tmp_path, weights, f"run.steps={steps}", recipe=RECIPE + second, resume=steps > 1)
            assert result.exit_code == 0, result.output
            counts.append(len(calls))
            weights.unlink(missing_ok=True)
    finally:
        hook.remove()
    assert counts[1] - counts[0] == 3 - 1
    assert "license dinov3-license" in result.output and "DINOv3 License" in result.output
    saved = state(tmp_path)
    network = {name for name in saved if ".network." in name}
    assert network and all(name.startswith("tokenizer.encoder.network.") for name in network)
    folder = tmp_path / "run" / "tokenizer"
    for text in ("NOTICE", "README.md"):
        assert "DINOv3 License" in (folder / text).read_text()
        assert f"weights of hash {hashed}" in (folder / text).read_text()
    tokenizer = vtp_core.load(folder)
    expected = saved["tokenizer.encoder.network.blocks.0.attn.qkv.weight"]
    torch.testing.assert_close(tokenizer.encoder.network.blocks[0].attn.qkv.weight, expected)


def test_by_reference_neither_checkpoint_nor_artefact_hold_the_network(tmp_path: Path, weights: Path) -> None:
    unknown = run(tmp_path, weights, 'encoder.store="reference"')
    assert unknown.exit_code == 2 and f'set hash = "{digest(weights)}"' in one_line(unknown)
    sets = ('encoder.store="reference"', f'encoder.hash="{digest(weights)}"')
    result = run(tmp_path, weights, *sets)
    assert result.exit_code == 0, result.output
    assert not any(".network." in name for name in state(tmp_path))
    folder = tmp_path / "run" / "tokenizer"
    loaded = vtp_core.load(folder).encoder.network.state_dict()
    assert fingerprint(loaded) == digest(weights)
    resumed = run(tmp_path, weights, "run.steps=2", *sets, resume=True)
    assert resumed.exit_code == 0, resumed.output
    away = weights.rename(tmp_path / "away.safetensors")
    with pytest.raises(UsageError, match=f"fetch the weights of {NAME} of hash .*no such file"):
        vtp_core.load(folder)
    planned = CliRunner().invoke(main, ["plan", str(tmp_path / "frozen.toml"), "-s", sets[0], "-s", sets[1]])
    assert planned.exit_code == 0, planned.output
    other = {name: value + 1 for name, value in timm.create_model(NAME, **OPTIONS).state_dict().items()}
    save_file(other, away.with_name("dino.safetensors"))
    with pytest.raises(UsageError, match=r"\(file dino.safetensors\) have hash .*fetch those of that hash"):
        vtp_core.load(folder)


def test_only_the_network_by_reference_may_be_missing_from_a_state_dict() -> None:
    def part() -> torch.nn.Module:
        return torch.nn.ModuleDict({"network": torch.nn.Linear(2, 3), "own": torch.nn.Linear(3, 1)})

    whole = torch.nn.ModuleDict({"decoder": part(), "encoder": part()})
    leave_out(whole["encoder"], "network")
    state = whole.state_dict()
    assert not any(name.startswith("encoder.network.") for name in state)
    kept = whole["encoder"]["network"].weight.clone()
    whole.load_state_dict({name: value + 1 for name, value in state.items()})
    assert torch.equal(whole["encoder"]["network"].weight, kept)
    for gone in ("decoder.network.weight", "encoder.own.weight"):
        with pytest.raises(RuntimeError, match=rf"Missing key.*{gone}"):
            whole.load_state_dict({name: value for name, value in state.items() if name != gone})
    with pytest.raises(RuntimeError, match=r"Missing key.*encoder\.network\.bias"):
        whole.load_state_dict({**state, "encoder.network.weight": kept})


@pytest.mark.parametrize("store", ["reference", "whole"])
def test_the_size_of_an_artefact_does_not_limit_networks_by_reference(store: str) -> None:
    encoder = {
        "use": "timm",
        "name": "vit_huge_plus_patch16_dinov3.lvd1689m",
        "store": store,
        "hash": "0" * 16,
    }
    config = ArtefactConfig(
        vtp_version="1", encoder=encoder, bottleneck={"use": "linear", "channels": 4}, image_size=256
    )
    shapes = {"bottleneck.project.weight": (4, 1280)}
    if store == "reference":
        assert outline(config, load_plugins(), shapes).encoder.width == 1280
    else:
        with pytest.raises(CheckpointError, match=r"its networks take 3\.1 GiB"):
            outline(config, load_plugins(), shapes)


def test_a_frozen_network_is_not_averaged(tmp_path: Path, weights: Path) -> None:
    result = run(tmp_path, weights, 'ema.networks=["tokenizer.encoder"]')
    assert result.exit_code == 2
    assert "ema.networks: tokenizer.encoder is frozen" in one_line(result)


@pytest.mark.distributed
def test_two_sharded_ranks_train_as_one(tmp_path: Path, weights: Path) -> None:
    table = (
        'trainable = 1\nresidual = {{ width = 16, depth = 1, heads = 1 }}\n\n[bottleneck]\nuse = "fusion"\n'
    )
    fused = 'fusion = {{ kind = "residual", layers = [2] }}\ncalibration_rows = 16\n'
    recipe = RECIPE.replace('\n[bottleneck]\nuse = "linear"\nchannels = 4\n', table + fused) + ADAPTED
    sets = ("run.steps=3", "run.log_every=1")
    alone = run(tmp_path, weights, *sets, recipe=recipe)
    assert alone.exit_code == 0, alone.output
    more = (*sets, "parallel.shard=2", f"run.out={tmp_path / 'two'}")
    chosen = [part for value in more for part in ("-s", value)]
    command = [
        sys.executable,
        "-m",
        "vtp_core",
        "run",
        str(tmp_path / "frozen.toml"),
        "--nproc",
        "2",
        *chosen,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    losses = []
    for out in ("run", "two"):
        lines = map(json.loads, (tmp_path / out / "metrics.jsonl").read_text().splitlines())
        losses.append([[line[key] for key in line if key.startswith("loss/")] for line in lines])
    assert len(losses[0]) == 3 and len(losses[0][0]) == 4
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-5, atol=1e-6)


def test_adapted_blocks_are_trained_beside_a_frozen_copy(tmp_path: Path, weights: Path) -> None:
    result = run(tmp_path, weights, "encoder.trainable=1", recipe=RECIPE + ADAPTED)
    assert result.exit_code == 0, result.output
    start = timm.create_model(NAME, **OPTIONS)
    start.load_state_dict(load_file(weights))
    saved = state(tmp_path)
    for name, value in start.state_dict().items():
        key = f"tokenizer.encoder.network.{name}"
        if key in saved:
            moved = not torch.equal(saved[key], value)
            assert moved == name.startswith("blocks.1."), name
    assert not any(name.startswith("frozen") for name in saved)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["report/align/weight"] > 0  # of gradients that come through the decoder


def test_a_residual_network_is_one_more_tap(tmp_path: Path, weights: Path) -> None:
    residual = "\nresidual = {{ width = 16, depth = 1, heads = 1 }}\n[bottleneck]\n"
    fused = 'use = "fusion"\nfusion = {{ kind = "residual", layers = [2] }}\ncalibration_rows = 16\n'
    recipe = RECIPE.replace('\n[bottleneck]\nuse = "linear"\nchannels = 4\n', residual + fused)
    result = run(tmp_path, weights, recipe=recipe)
    assert result.exit_code == 0, result.output
    tokenizer = vtp_core.load(tmp_path / "run" / "tokenizer")
    assert tokenizer.encoder.taps == 3 and tokenizer.encoder.tap_widths == (32, 32, 16)
    output = tokenizer.encode(torch.zeros(1, 3, 32, 32))
    assert output.latent.shape == (1, 48, 2, 2)
