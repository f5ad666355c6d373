"""What the quickstart reaches: `make figures` trains it and names its run folder in VTP_QUICKSTART."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RUN = os.environ.get("VTP_QUICKSTART")

pytestmark = pytest.mark.skipif(RUN is None, reason="no run of the quickstart is named in VTP_QUICKSTART")


@pytest.fixture(scope="module")
def run() -> Path:
    assert RUN is not None
    return REPOSITORY / RUN


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "eval.json").read_text())
    return found


def test_images_are_reconstructed(figures: dict[str, Any]) -> None:
    assert figures["psnr"]["value"] >= 16
    assert figures["psnr"]["baseline"] < 12, "a mean colour would do"


def test_images_and_captions_find_each_other(figures: dict[str, Any]) -> None:
    recall = figures["retrieval_r5"]
    assert set(recall["baselines"]) == {"chance", "the most frequent captions"}
    assert recall["value"] >= 3 * recall["baselines"]["chance"] and recall["verdict"] == "better"


def test_latents_are_better_neighbours_than_pixels(figures: dict[str, Any]) -> None:
    neighbours = figures["knn"]
    assert set(neighbours["baselines"]) == {"raw pixels", "largest class"}
    assert neighbours["value"] > neighbours["baseline"]


@pytest.mark.parametrize("term", ["clip/contrast", "dino/distillation", "mim/distillation", "l1/pixels"])
def test_losses_fall(run: Path, term: str) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row[f"loss/{term}"] for row in rows if f"loss/{term}" in row]
    third = len(losses) // 3
    assert third >= 5
    assert mean(losses[-third:]) < mean(losses[: third // 2])
