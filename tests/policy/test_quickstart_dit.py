"""What the quickstart's generator reaches: `make figures` and `make figures-all` name their run folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SHORT, FULL = os.environ.get("VTP_QUICKSTART_DIT_SHORT"), os.environ.get("VTP_QUICKSTART_DIT")

short = pytest.mark.skipif(SHORT is None, reason="no run is named in VTP_QUICKSTART_DIT_SHORT")
full = pytest.mark.skipif(FULL is None, reason="no run is named in VTP_QUICKSTART_DIT")
RUNS = [pytest.param(SHORT, marks=short, id="short"), pytest.param(FULL, marks=full, id="full")]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("run", RUNS)
def test_the_tokenizer_is_the_quickstarts(run: str) -> None:
    config = read(REPOSITORY / run / "tokenizer" / "config.json")
    before = read(REPOSITORY / "runs" / "quickstart" / "tokenizer" / "config.json")
    assert config["heads"]["generation"]["tokenizer"]["fingerprint"] == config["fingerprint"]
    assert config["fingerprint"] == before["fingerprint"]
    assert config["latents_mean"] == before["latents_mean"]


@pytest.mark.parametrize("run", RUNS)
def test_the_report_ends_with_a_row_of_samples_of_each_class(run: str) -> None:
    rows = read(REPOSITORY / run / "samples" / "samples.json")["generated"]["rows"]
    assert [row["title"] for row in rows][:3] == ["animals", "buildings", "education"] and len(rows) == 11
    files = [name for row in rows for name in row["files"]]
    assert len(files) == 110 and all((REPOSITORY / run / "samples" / name).is_file() for name in files)
    assert "Samples of the generator" in (REPOSITORY / run / "report.html").read_text()


@full
def test_samples_are_nearer_to_the_drawings_than_gaussian_latents() -> None:
    assert FULL is not None
    distance = read(REPOSITORY / FULL / "eval.json")["gfd_efflite0"]
    assert distance["baseline_name"] == "Gaussian latents" and distance["verdict"] == "better"
    assert distance["value"] <= 0.7 * distance["baseline"]


@full
def test_the_loss_falls() -> None:
    assert FULL is not None
    rows = [json.loads(line) for line in (REPOSITORY / FULL / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/generation/velocity"] for row in rows if "loss/generation/velocity" in row]
    third = len(losses) // 3
    assert third >= 5
    assert mean(losses[-third:]) < mean(losses[:third])
