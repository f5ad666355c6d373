from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vtp_core.cli.main import main
from vtp_plugins.kernels.native.loading import why_missing


def test_tables_and_files_come_from_one_run(tmp_path: Path) -> None:
    out, text = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["bench", "nearest_code", "--shapes", "64x32x8, 16x8x4", "--only", "new", "--rounds", "2"]
    done = CliRunner().invoke(main, [*arguments, "--json", str(out), "--report", str(text)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert [item["shape"] for item in found] == ["64x32x8", "16x8x4"]
    assert {"vtp", "vtp, new codebook"} == set(found[0]["variants"])
    assert "## 64x32x8" in text.read_text() and "## 16x8x4" in done.output


def test_without_a_file_the_results_are_printed_as_json() -> None:
    arguments = ["bench", "nearest_code", "--shapes", "16x8x4", "--no-peers", "--rounds", "2", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert [item["shape"] for item in json.loads(done.stdout)] == ["16x8x4"] and "16x8x4" in done.stderr


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
        (["nearest_code", "--shapes", "0x8x8"], "'0' is no number from 1 to"),
        (["nearest_code", "--shapes=-1x8x8"], "'-1' is no number from 1 to"),
        (["nearest_code", "--shapes", "9" * 30 + "x8x8"], "is no number from 1 to"),
        (["nearest_code", "--shapes", "4x8x5000"], "shape '4x8x5000': nearest_code: the width of vectors"),
        (["nearest_code", "--shapes", "2147483647x2x4096"], "needs more memory than there is"),
        (["nearest_code", "--shapes", "2147483647x2x2147483647"], "needs more memory than there is"),
        (["nearest_code", "--shapes", ","], "shape ''"),
        (["attention", "--shapes", "forward:1x1x0x8"], "'0' is no number"),
        (["attention", "--shapes", "both:2x8:0x5"], "'0' is no number"),
        (["attention", "--shapes", "both:2x8:5"], "'5' has 1 numbers, not 2"),
        (["attention", "--shapes", "forward+rope:1x1x8x7"], "a rotation needs an even width"),
        (["vq_step", "--shapes", "0x4x4"], "'0' is no number"),
        (["encode", "--shapes", "vtp_s"], "no recipe in front"),
        (["encode", "--shapes", "vtp_s:0x32"], "'0' is no number"),
        (["encode", "--shapes", "nowhere:1x32"], 'no shipped recipe "nowhere"'),
        (["nearest_code", "--device", "nonsense"], "--device nonsense: unknown; use cpu, cuda or"),
        (["nearest_code", "--device", "cpu:7"], "--device cpu:7: unknown; use cpu, cuda or"),
        (["nearest_code", "--json", f"{__file__}/a.json"], "is a file; name another folder"),
        (["nearest_code", "--report", "."], "--report .: is a folder"),
        (["nearest_code", "--plot", f"{__file__}/a.svg"], "is a file; name another folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments, "--no-peers"])
    assert done.exit_code == 2, done.output
    assert len(done.output.splitlines()) == 1 and message in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    done = CliRunner().invoke(main, ["bench", "nearest_code", "--device", "cuda:1"])
    assert done.exit_code == 2 and done.output.strip().endswith("device cuda:1: torch sees no GPU here")


def test_an_unknown_instruction_set_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if why_missing("_C_cpu") is not None:
        pytest.skip("needs native kernels")
    monkeypatch.setenv("VTP_CPU_ISA", "sse")
    for case, shape in (("nearest_code", "4x4x4"), ("attention", "forward:1x1x4x4")):
        done = CliRunner().invoke(main, ["bench", case, "--shapes", shape, "--no-peers"])
        assert done.exit_code == 2 and len(done.output.splitlines()) == 1, done.output
        assert "VTP_CPU_ISA=sse: unknown; use portable, avx2, avx512 or avx512bf16" in done.output
