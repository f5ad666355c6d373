"""Latents of one row of tokens: figures that need places are left out and said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.titok.published import written
from vtp_core import load
from vtp_core.data.opening import Sources
from vtp_core.evaluation.opening import open_set
from vtp_core.evaluation.runner import evaluate
from vtp_core.plugins import load_plugins
from vtp_plugins.evaluate_diffusability.config import DiffusabilityConfig
from vtp_plugins.evaluate_diffusability.evaluator import Diffusability
from vtp_plugins.samples.config import SamplesConfig


@pytest.mark.slow
def test_no_spectrum(tmp_path: Path) -> None:
    sources = Sources(load_plugins(), None)
    held_out = open_set(SamplesConfig(split="val"), sources, 32)
    evaluator = Diffusability(DiffusabilityConfig(network=None))
    results = evaluate(load(written(tmp_path, "vae")), {"diffusability": evaluator}, held_out)
    assert "spectrum_slope" not in results and "scale_error" not in results
    assert "token_variance_t0.5" in results
    assert "its tokens have no places in the image" in str(results["uniformity"])
