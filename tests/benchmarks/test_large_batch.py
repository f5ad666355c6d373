from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FEATURES_MIB = 0.2
"""Most that a row may add: its pixels, tokens and their gradients, captions (0.12 measured). The
activations of a row, which are not to be kept, take 0.7 MiB."""


def _step(rows: int, chunk: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.large_batch",
        "--json",
        "--rows",
        str(rows),
        "--chunk",
        str(chunk),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_chunks_change_the_memory_and_not_the_loss() -> None:
    whole, chunked = _step(256, 256), _step(256, 32)
    assert chunked["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert abs(whole["loss"] - math.log(256)) < 1
    assert chunked["peak_mib"] < whole["peak_mib"]


@pytest.mark.slow
def test_the_peak_grows_with_the_features_and_no_more() -> None:
    small, large = _step(512, 64), _step(2048, 64)
    grown = (large["peak_mib"] - large["rest_mib"]) - (small["peak_mib"] - small["rest_mib"])
    assert grown < FEATURES_MIB * (2048 - 512)
