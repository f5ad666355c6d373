"""What DINO-Tok's quickstart reaches: `make figures-all` names its run folder in VTP_DINO_TOK_QUICKSTART."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RUN = os.environ.get("VTP_DINO_TOK_QUICKSTART")

pytestmark = pytest.mark.skipif(RUN is None, reason="no run is named in VTP_DINO_TOK_QUICKSTART")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    assert RUN is not None
    found: dict[str, Any] = json.loads((REPOSITORY / RUN / "eval.json").read_text())
    return found


def test_images_are_reconstructed(figures: dict[str, Any]) -> None:
    assert figures["psnr"]["value"] >= 12.3
    assert figures["psnr"]["verdict"] == "better", "a mean colour would do"


@pytest.mark.parametrize("branch", ["deep", "shallow"])
def test_codebooks_are_used(branch: str, figures: dict[str, Any]) -> None:
    assert figures[f"usage_{branch}"]["value"] >= 0.8
    assert figures[f"perplexity_{branch}"]["value"] >= 250


@pytest.mark.parametrize("branch", ["deep", "shallow"])
def test_each_branch_holds_something_of_its_own(branch: str, figures: dict[str, Any]) -> None:
    assert figures[f"psnr_without_{branch}"]["also"]["lost, dB"] > 0.5
