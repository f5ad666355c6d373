"""`vtp report`: the page of a run, and of several."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.core.cli.small_tokenizer import vtp
from vtp_core import load


def test_report_makes_its_reconstructions(home: Path) -> None:
    run = home / "run"
    load(home / "artefact").save(run / "tokenizer")
    result = vtp("report", run)
    assert result.exit_code == 0, result.output
    made = (run / "samples" / "samples.json").stat().st_mtime_ns
    text = (run / "report.html").read_text()
    assert "complete" in text and "data:image/png" in text
    vtp("report", run, "-o", run / "other.html")
    assert (run / "samples" / "samples.json").stat().st_mtime_ns == made
    assert (run / "other.html").is_file()


def test_report_without_its_data_says_so(home: Path, tmp_path: Path) -> None:
    text = (home / "run" / "resolved.toml").read_text().replace("photos", "gone")
    (tmp_path / "resolved.toml").write_text(text)
    load(home / "artefact").save(tmp_path / "tokenizer")
    result = vtp("report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "reconstructions could not be made" in (tmp_path / "report.html").read_text()


def test_a_report_of_several_runs_compares_them(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(home / "run", other)
    recipe = (other / "resolved.toml").read_text()
    (other / "resolved.toml").write_text(recipe.replace("lr = 0.001", "lr = 0.25"))
    page = tmp_path / "page.html"
    result = vtp("report", home / "run", other / "tokenizer" / "..", "-o", page)
    assert result.exit_code == 0, result.output
    assert "0.25" in page.read_text() and "optimizer.lr" in page.read_text()
    result = vtp("report", home / "run", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path}: not a run folder" in result.stderr
