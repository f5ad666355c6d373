"""Samples of a generator in the report, and a report without those that it can't make."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.core.evaluation.generates import Generator as Bare
from tests.core.evaluation.test_sampling import Scaled, generating
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.report.generated import COLUMNS, write_samples
from vtp_core.report.page import render
from vtp_core.report.run_data import RunData, read_gallery

GALLERY = {
    "images": [],
    "psnr": {"values": [20.0], "median": 20.0},
    "latent": {"mean": [0.0], "std": [1.0], "explained": [1.0]},
}


def page(folder: Path, generated: object) -> str:
    gallery = read_gallery({**GALLERY, "generated": generated})
    return render(RunData(name="a", gallery=gallery, images=folder))


def test_samples_are_shown_with_the_settings_in_effect(tmp_path: Path) -> None:
    found = write_samples(generating(), tmp_path)
    assert found is not None
    assert found["settings"] == {"steps": 4, "guidance": 1.0, "noise": "normal"}
    files = [name for row in found["rows"] for name in row["files"]]
    assert len(files) == COLUMNS * len(found["rows"])
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    stated = write_samples(generating(Bare()), tmp_path)
    assert stated is not None and stated["settings"] == {}
    assert write_samples(toy_tokenizer(text=False), tmp_path) is None


def test_settings_that_a_generator_can_not_follow_cost_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as guidance of a run from before recipes were refused for it."""

    class Refuses(Scaled):
        def describe(self, *_: object) -> NoReturn:
            raise UsageError("generate: guidance needs classes")

    with caplog.at_level(logging.WARNING):
        assert write_samples(generating(Refuses()), tmp_path) is None
    assert caplog.messages == ["the report shows no samples: generate: guidance needs classes"]
    assert not list(tmp_path.iterdir())


def test_the_page_states_settings_as_protocols_do(tmp_path: Path) -> None:
    text = page(tmp_path, write_samples(generating(), tmp_path))
    assert "the first samples of seed 0, sampled with steps=4, guidance=1, noise=normal. <code>" in text
    assert "the first samples of seed 0. <code>" in page(
        tmp_path, write_samples(generating(Bare()), tmp_path)
    )


def test_damaged_settings_break_no_page(tmp_path: Path) -> None:
    found: dict[str, Any] = {"rows": [{"title": "", "files": ["a.png"]}], "seed": 0}
    strange = {"sampler": None, "interval": [0, [1]], "more": {"<b>": {}}}
    text = page(tmp_path, {**found, "settings": strange})
    assert "sampled with sampler=none, interval=[0, [1]], more={&#39;&lt;b&gt;&#39;: {}}" in text
    for settings in (None, [1], "euler", 3):
        with pytest.raises(ValueError, match="Error: "):
            page(tmp_path, {**found, "settings": settings})
