"""`vtp probe-gen` on runs: their own images, records that are kept, ranks by what can be learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.core.evaluation_sets import ArraySource
from tests.core.run.tiny_run import vtp
from vtp_core.cli.main import main
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_plugins.probe_gen.config import ProbeSettings
from vtp_plugins.probe_gen.measure import measure

SETTINGS = {
    "steps": "6",
    "rows": "8",
    "images": "64",
    "samples": "64",
    "euler_steps": "2",
    "width": "32",
    "depth": "1",
    "heads": "2",
    "network": "timm:test_resnet",
    "weights": "random",
    "resize": "32",
}

pytestmark = pytest.mark.slow


def probe(*arguments: str | Path) -> Result:
    chosen = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={value}")]
    return CliRunner().invoke(main, ["probe-gen", *map(str, arguments), *chosen])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same images."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("one", "other")]
    for seed, folder in enumerate(folders):
        done = vtp(folder.parent, f"run.seed={seed}", "run.steps=2", "evaluate.statistics_samples=0")
        assert done.exit_code == 0, done.output
    return folders


def test_runs_are_measured_on_their_own_images_once(runs: list[Path], tmp_path: Path) -> None:
    first = probe(*runs, "--seeds", "2", "--curve", "--json", "-o", tmp_path)
    assert first.exit_code == 0, first.output
    data = json.loads(first.stdout)
    assert data["seeds"] == [0, 1] and {place["tokenizer"] for place in data["ranking"]} == {*map(str, runs)}
    assert "on samples/val, PARTIAL 64 of" in data["protocol"] and "11 classes" in data["protocol"]
    values = [place["kernel"]["value"] for place in data["ranking"]]
    assert values == sorted(values) and all(place["kernel"]["error"] > 0 for place in data["ranking"])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(times) == 4
    again = probe(*runs, "--seeds", "2", "--curve", "--json", "-o", tmp_path)
    assert json.loads(again.stdout) == data and "training the proxy" not in again.stderr
    third = probe(runs[0], "--seeds", "3", "-o", tmp_path)
    assert third.stderr.count("training the proxy") == 1
    assert len({*tmp_path.iterdir()}) == 5 and all(
        path.stat().st_mtime_ns == at for path, at in times.items()
    )


def test_other_sizes_and_other_images_are_refused(runs: list[Path], tmp_path: Path) -> None:
    sizes = probe(runs[0], "vtp-nano", "--source", "samples", "-o", tmp_path)
    assert sizes.exit_code == 2 and "different image sizes can't be compared" in sizes.stderr
    done = vtp(tmp_path, 'data.source.split="train"', "run.steps=2", "evaluate.statistics_samples=0")
    assert done.exit_code == 0, done.output
    images = probe(runs[0], tmp_path / "run", "-o", tmp_path)
    assert images.exit_code == 2 and "were trained on different images" in images.stderr
    assert not list(tmp_path.glob("*.json"))


def test_a_proxy_learns_what_gaussian_latents_do_not_have() -> None:
    """Images of one colour each: the channels of their latents depend on each other in every position."""
    draw = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (128, 1, 1, 3), generator=draw, dtype=torch.uint8)
    source = ArraySource(colors.expand(-1, 32, 32, -1).contiguous().numpy())
    settings = ProbeSettings(
        steps=250, rows=32, images=128, samples=256, euler_steps=10, width=32, depth=2, heads=2, lr=3e-3,
        warmup=10, network="timm:test_resnet", weights="random", resize=32,
    )  # fmt: skip
    record = measure(tiny_tokenizer(), EvaluationSet(name="colors", source=source), settings, curve=True)
    # The untrained decoder's images are far from real ones: what counts is the way down from noise.
    floor, noise = record.reconstruction.frechet, record.gaussian.frechet
    way = [(point.frechet - floor) / (noise - floor) for point in record.curve]
    assert way[-1] < 0.1 and way[-1] < 0.2 * way[0]
    assert record.final.kernel < record.gaussian.kernel
