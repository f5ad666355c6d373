from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vtp_core.cli.main import main


def test_tables_and_files_come_from_one_run(tmp_path: Path) -> None:
    out, text = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["bench", "nearest_code", "--shapes", "64x32x8, 16x8x4", "--only", "new", "--rounds", "2"]
    done = CliRunner().invoke(main, [*arguments, "--json", str(out), "--report", str(text)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert [item["shape"] for item in found] == ["64x32x8", "16x8x4"]
    assert {"vtp", "vtp, new codebook"} == set(found[0]["variants"])
    assert "## 64x32x8" in text.read_text() and "## 16x8x4" in done.output


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "bars.svg"
    arguments = ["bench", "vq_step", "--shapes", "32x8x4", "--no-peers", "--rounds", "2", "--plot", str(plot)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "vq_step" in plot.read_text() and "</svg>" in plot.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nearest_code", "--shapes", "4x4"], "shape '4x4'"),
        (
            ["nearest_code", "--shapes", "4x4x4", "--only", "fais", "--no-peers"],
            'no variant "fais"; there are: ',
        ),
        (["nearest_code", "--plot", "bars.gif"], "use one of .png, .svg, .pdf"),
        (["nearest_code", "--device", "cuda"], "torch sees no GPU here"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1 and message in done.output
