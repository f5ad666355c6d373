"""`make gpu` without a GPU: arguments, time, failures, commands, the report."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import installed, report, runner
from benchmarks.gpu.context import REPOSITORY, Context, PartFailed
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.roofline import flop_share, limit_share
from benchmarks.gpu.runner import PARTS, chosen, run_parts
from tests.benchmarks.gpu_context import H200, context


def part(run: Callable[[Context], list[str]], limit: float = 60.0) -> Any:
    return SimpleNamespace(SUMMARY="does something", LIMIT=limit, KEPT=8.0, run=run)


def failing(error: Exception) -> Callable[[Context], list[str]]:
    def run(context: Context) -> list[str]:
        raise error

    return run


def test_the_process_that_leads_needs_nothing_but_python() -> None:
    program = """
import sys
for name in ("torch", "numpy", "click", "pydantic", "pluggy", "rich", "triton"):
    sys.modules[name] = None
import benchmarks.gpu.__main__
assert benchmarks.gpu.__main__.main(["--parts", "nothing"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no part 'nothing'; there are: build, test, memcheck, tune, bench, train, vtp_s" in done.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", list(PARTS)),
        (" , ", list(PARTS)),
        ("tune", ["tune"]),
        ("vtp_s, build,tune,build", ["build", "tune", "vtp_s"]),
    ],
)
def test_parts_are_chosen_by_name_and_keep_their_order(text: str, names: list[str]) -> None:
    assert chosen(text) == names


def test_every_part_says_what_it_does_and_how_long_it_may_take() -> None:
    for module in PARTS.values():
        assert module.SUMMARY and 0 < module.KEPT < module.LIMIT < script.SECONDS and callable(module.run)
    assert sum(module.KEPT for module in PARTS.values()) < script.SECONDS - 20


def test_a_part_that_fails_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    parts = {
        "first": part(failing(PartFailed("no compiler", ["- half of it"]))),
        "second": part(failing(ZeroDivisionError("by\n zero"))),
        "third": part(lambda context: [context.part]),
    }
    told: list[str] = []
    outcomes = run_parts(context(tmp_path), list(parts), 100, told.append, parts)
    assert [it.failure for it in outcomes] == ["no compiler", "ZeroDivisionError: by zero", None]
    assert [it.lines for it in outcomes] == [["- half of it"], [], ["third"]]
    assert "first: FAILED: no compiler (0 s)" in told and "third: done (0 s)" in told


def test_a_part_has_its_limit_and_leaves_time_for_the_others(tmp_path: Path) -> None:
    left: dict[str, float] = {}

    def note(context: Context) -> list[str]:
        left[context.part] = context.left
        return []

    parts = {"short": part(note, 5.0), "long": part(note), "last": part(note)}
    run_parts(context(tmp_path), list(parts), 40, lambda line: None, parts)
    assert left["short"] == pytest.approx(5, abs=0.5)
    assert left["long"] == pytest.approx(40 - 8, abs=0.5)
    assert left["last"] == pytest.approx(40, abs=0.5)
    (outcome,) = run_parts(context(tmp_path), ["last"], 0.5, lambda line: None, parts)
    assert outcome.failure == "not started, the 0 seconds are over"


def test_a_command_that_fails_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    here = context(tmp_path)
    assert here.python("-c", "print('fine')") == "fine\n"
    with pytest.raises(PartFailed, match=r"ended with exit code 3; its last line: oh no$") as raised:
        here.python("-c", "import sys; print('x'); print('oh no'); print(); sys.exit(3)")
    assert "\n" not in str(raised.value)
    with pytest.raises(PartFailed, match="no-such-program-of-ours: No such file"):
        here.run(["no-such-program-of-ours"])
    assert here.python("-c", "import os; print(os.environ['A'])", environment={"A": "b"}) == "b\n"
    assert "oh no" in here.log.read_text() and "fine" in here.log.read_text()


def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']); "
        f"open({str(file)!r}, 'w').write(str(child.pid)); print('waiting', flush=True); time.sleep(1000)"
    )
    with pytest.raises(PartFailed, match="took too long; its last line: waiting"):
        context(tmp_path, seconds=3).python("-c", program)
    time.sleep(0.2)
    state = Path(f"/proc/{file.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_checkout_that_is_not_installed_shows_its_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    path = installed.variables(tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert path == [str(REPOSITORY), str(tmp_path / "site"), "/elsewhere"]
    (found,) = importlib.metadata.distributions(path=[path[1]])
    assert found.metadata["Name"] == "vtp-core" and found.requires
    mine = {point.name: point.value for point in found.entry_points.select(group="vtp")}
    assert mine["kernels"] == "vtp_plugins.kernels.plugin" and len(mine) > 20


OUTCOMES = [
    Outcome(name="build", summary="compiles", seconds=31.4, lines=["```", "_C_cuda  built", "```"]),
    Outcome(name="memcheck", summary="checks", seconds=2.0, failure="compute-sanitizer | found 2 errors"),
]


def test_the_report_has_device_outcomes_and_sections(tmp_path: Path) -> None:
    path = report.write(tmp_path / "new", H200, OUTCOMES, "2026-11-28", ["a note"])
    assert path.name == "gpu_nvidia_h200_2026-11-28.md"
    text = path.read_text()
    assert text.startswith("# make gpu on NVIDIA H200, 2026-11-28\n")
    for line in (
        "- NVIDIA H200, compute capability 9.0, 140 GiB, driver 580.159.04; torch 2.14.1, triton 3.8.0, CUDA "
        "13.0, Python 3.12.3.",
        "- Measured here: products of 8192 x 8192 matrices at 780 T FLOP/s in bfloat16, 50 T in float32; "
        "a copy moves 4.30 TB/s, read and written.",
        "- a note",
        "| build | done | 31 | compiles |",
        "| memcheck | **failed**: compute-sanitizer / found 2 errors | 2 | checks |",
        "_C_cuda  built",
    ):
        assert f"\n{line}\n" in text, line
    assert "## memcheck" not in text
    unknown = report.markdown({**H200, "sheet": None, "missing": ["lpips>=0.1.4"]}, [], "2026-11-28")
    assert "missing or too old here: lpips>=0.1.4." in unknown
    assert "No data sheet of this device is known" in unknown
    assert "Nothing could be found out about the device" in report.markdown({}, OUTCOMES, "2026-11-28")


def test_ratios_to_the_roofline() -> None:
    attention = {
        "operator": "attention", "attributes": {"dtype": "bfloat16"},
        "work": {"flop": 989e9, "exponentials": 1.0, "bytes": 1.0},
    }  # fmt: skip
    search = {
        "operator": "nearest_code",
        "attributes": {"dtype": "float32", "rows": 65536, "codes": 16384, "width": 64},
        "work": {"flop": 2.0 * 65536 * 16384 * 64, "bytes": 1.0},
    }
    assert limit_share(H200, attention, 2e-3) == "50 %"
    assert limit_share(H200, search, 139e-6) == "100 %"
    without = {**H200, "sheet": None}
    assert limit_share(without, attention, 989e9 / 780e12 * 4) == "25 %"
    assert limit_share(without, search, 1e-3) == "17.6 %"
    assert limit_share({}, search, 1.0) == "" and limit_share(H200, {**search, "work": {}}, 1.0) == ""
    assert flop_share(H200, 98.9e12, 1.0).endswith("10 % of the data sheet's")
    assert flop_share({}, 1.0, 1.0) == "not known"


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(script, "_facts", lambda context: dict(H200))
    fine = {"build": part(lambda context: ["built"]), "tune": part(failing(PartFailed("no time")))}
    monkeypatch.setattr(runner, "PARTS", fine)
    monkeypatch.setattr(script, "run_parts", lambda *arguments: run_parts(*arguments, parts=fine))
    options = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--seconds", "60"]
    assert script.main([*options, "--parts", "build"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert "## build\n\nbuilt\n" in path.read_text() and f"report: {path}" in capsys.readouterr().out
    assert script.main([*options, "--parts", "build,tune"]) == 1
    assert "**failed**: no time" in path.read_text()


def test_a_device_that_can_not_be_examined_is_a_failure_and_the_parts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = {"build": part(lambda context: ["built"])}
    monkeypatch.setattr(script, "run_parts", lambda *arguments: run_parts(*arguments, parts=fine))
    monkeypatch.setattr(script, "_facts", failing(PartFailed("no driver")))
    options = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--parts", "build"]
    assert script.main(options) == 1
    assert not (tmp_path / "out").exists()
    (path,) = (tmp_path / "work").glob("gpu_unknown_*.md")
    text = path.read_text()
    assert "- The device could not be examined: no driver" in text and "built" in text
