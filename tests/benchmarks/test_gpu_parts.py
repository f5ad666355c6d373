"""The parts of `make gpu` without a GPU: on results made up for them, and with tiny sizes on a CPU."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import report, smallest
from benchmarks.gpu.context import Context, PartFailed
from benchmarks.gpu.parts import bench, build, memcheck, test, train, tune, vtp_s
from tests.benchmarks.gpu_context import H200, context
from vtp_core.ops import AttentionKernel
from vtp_plugins.bench.peers.ours import usable


def test_the_build_reports_what_it_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def vtp(self: Context, *arguments: str) -> str:
        asked.append(arguments)
        return f"ran {arguments[1]}\n"

    monkeypatch.setattr(Context, "vtp", vtp)
    assert build.run(context(tmp_path)) == ["```", "ran build", "", "ran list", "```"]
    assert asked == [("kernels", "build", "--only", "cuda"), ("kernels", "list")]


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_search" name="test_a[cuda]"/>
<testcase classname="tests.gpu.test_search" name="test_b[cuda]">{problem}</testcase>
<testcase classname="tests.gpu.test_search" name="test_c"><skipped message="x"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("problem", "code", "failure"),
    [
        ("", 0, None),
        ('<failure message="assert 1 == 2&#10;more"/>', 1, "1 of 2 tests failed: test_search::test_b"),
        ('<error message=""/>', 1, "1 of 2 tests failed: test_search::test_b[cuda]: no message"),
        ("", 5, "ended with exit code 5"),
        (None, 1, "ended with exit code 1"),
        (None, 0, "pytest wrote no results"),
    ],
)
def test_failing_tests_are_named(
    problem: str | None, code: int, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def python(self: Context, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        assert "-m" in arguments and "gpu" in arguments and environment == {"VTP_TEST_DEVICE": "cuda"}
        file = next(it for it in arguments if it.startswith("--junitxml=")).partition("=")[2]
        if problem is not None:
            Path(file).write_text(JUNIT.format(problem=problem))
        if code:
            raise PartFailed(f"pytest: ended with exit code {code}")
        return ""

    monkeypatch.setattr(Context, "python", python)
    here = context(tmp_path, device="cuda:0")
    if failure is None:
        assert test.run(here) == ["2 passed, 0 failed, 1 skipped.", ""]
        return
    with pytest.raises(PartFailed) as raised:
        test.run(here)
    assert failure in str(raised.value)


def test_no_test_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def python(self: Context, *arguments: str, **_: object) -> str:
        file = next(it for it in arguments if it.startswith("--junitxml=")).partition("=")[2]
        Path(file).write_text('<testsuites><testcase name="a"><skipped/></testcase></testsuites>')
        return ""

    monkeypatch.setattr(Context, "python", python)
    with pytest.raises(PartFailed, match="no test ran"):
        test.run(context(tmp_path))


def sanitizer(folder: Path, *lines: str, code: int = 0) -> str:
    """A program that prints what compute-sanitizer would."""
    program = folder / "compute-sanitizer"
    printed = "\n".join(f"echo '{line}'" for line in lines)
    program.write_text(
        f'#!/bin/sh\n[ "$PYTORCH_NO_CUDA_MEMORY_CACHING" = 1 ] || exit 7\n{printed}\nexit {code}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


CLEAN = ("ran nearest_code cuda", "ran attention triton", "all ran", "========= ERROR SUMMARY: 0 errors")


@pytest.mark.parametrize(
    ("lines", "code", "failure"),
    [
        (CLEAN, 0, None),
        ((*CLEAN[:3], "========= ERROR SUMMARY: 2 errors"), 9, "ended with exit code 9; .*2 errors"),
        ((*CLEAN[:3], "========= ERROR SUMMARY: 1 error"), 0, "found 1 errors"),
        (CLEAN[:3], 0, "said nothing about errors"),
        (CLEAN[3:], 0, "said nothing about errors"),
        (("========= Error: Device not supported",), 1, "Device not supported"),
    ],
)
def test_the_memory_check_trusts_a_clean_summary_alone(
    lines: tuple[str, ...], code: int, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcheck, "find", lambda: sanitizer(tmp_path, *lines, code=code))
    if failure is None:
        assert memcheck.run(context(tmp_path))[2:] == ["- nearest_code cuda", "- attention triton"]
        return
    with pytest.raises(PartFailed, match=failure):
        memcheck.run(context(tmp_path))


def test_the_smallest_case_runs_every_kernel_of_a_device() -> None:
    if not usable(AttentionKernel, "cpu"):
        pytest.skip("the kernels for CPUs are not built")
    told: list[str] = []
    smallest.run("cpu", told.append)
    attention = "ran attention cpu, forward and backward, dense and packed"
    assert told == ["ran nearest_code cpu", attention, "all ran"]
    with pytest.raises(RuntimeError, match="no kernels for xpu can run here"):
        smallest.run("xpu", told.append)


def test_a_missing_memory_checker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memcheck.toolkit, "find", lambda: "no CUDA toolkit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PartFailed, match="no compute-sanitizer on PATH"):
        memcheck.find()
    expected = sanitizer(tmp_path)
    assert memcheck.find() == expected


MEASURED = [
    {
        "operator": "attention", "shape": "a shape", "skipped": None, "failed": {},
        "refused": {"cuda": "has no float64"}, "implementations": ["triton", "sdpa"],
        "seconds": {
            "triton": {"forward": 1e-3, "step": 2e-3}, "sdpa": {"step": 4e-3}, "SDPA, flash": {"step": 3e-3},
        },
        "attributes": {"dtype": "bfloat16"}, "work": {"flop": 989e9, "exponentials": 1.0, "bytes": 1.0},
    },
    {
        "operator": "nearest_code", "shape": "another", "skipped": "the time was up", "failed": {},
        "refused": {}, "implementations": [], "seconds": {}, "attributes": {}, "work": {},
    },
]  # fmt: skip


@pytest.mark.parametrize("failed", [{}, {"cuda": "l2: 3 of 9 indices differ"}])
def test_times_of_tuning_stand_beside_their_limits(
    failed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vtp(self: Context, *arguments: str) -> str:
        assert arguments[:2] == ("kernels", "tune")
        data = [{**MEASURED[0], "failed": failed}, MEASURED[1]]
        Path(arguments[-1]).write_text(json.dumps({"measured": data}))
        return ""

    monkeypatch.setattr(Context, "vtp", vtp)
    here = context(tmp_path, facts=H200)
    try:
        lines = tune.run(here)
        assert not failed
    except PartFailed as error:
        assert failed and "attention, a shape: cuda l2: 3 of 9" in str(error)
        lines = error.lines
        assert "- **left out** attention, a shape: cuda l2: 3 of 9 indices differ" in lines
    for line in (
        "| attention | a shape | triton | 1.000 | 2.000 | 2.00 x | 50 % |",
        "| attention | a shape | sdpa |  | 4.000 | 1.00 x | 25 % |",
        "| attention | a shape | (SDPA, flash) |  | 3.000 | 1.33 x | 33.3 % |",
        "| attention | a shape | cuda |  |  | not run: has no float64 |  |",
        "| nearest_code | another | - |  |  | the time was up |  |",
    ):
        assert line in lines, lines


def test_a_benchmark_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vtp(self: Context, *arguments: str) -> str:
        if arguments[1] == "attention":
            raise PartFailed("attention disagrees")
        Path(arguments[-1]).write_text("# nearest_code\n\nHow fast?\n\n## a shape\n\n| a table |\n")
        return ""

    def python(self: Context, *arguments: str, **_: object) -> str:
        folder = Path(arguments[-1])
        folder.mkdir(exist_ok=True)
        (folder / "joint_step_cpu_2026-11-28.md").write_text("# joint_step\n\nWhat?\n")
        return ""

    monkeypatch.setattr(Context, "vtp", vtp)
    monkeypatch.setattr(Context, "python", python)
    with pytest.raises(PartFailed, match="2 of 4 failed, the first: attention disagrees") as raised:
        bench.run(context(tmp_path))
    lines = raised.value.lines
    assert lines[:5] == ["### nearest_code", "", "How fast?", "", "#### a shape"]
    assert "**failed**: attention disagrees" in lines and "What?" in lines


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["bench", "train", "vtp_s", "test"])
def test_a_part_on_a_cpu_with_tiny_sizes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of these parts but the device itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = context(tmp_path, seconds=800, part="tried", facts={**H200, "sheet": None})
    lines = {"bench": bench, "train": train, "vtp_s": vtp_s, "test": test}[name].run(here)
    text = "\n".join(lines)
    expected = {
        "bench": ("### joint step", "| three plain steps | bfloat16 |", "| vtp |"),
        "train": ("- Step 3: ", "rows/s with the loader", "TFLOP a step by torch's counter"),
        "vtp_s": ("no weights needed", "clip/contrast", "mim/distillation", "perceptual/distance"),
        "test": (" passed, 0 failed, 0 skipped",),
    }[name]
    for words in expected:
        assert words in text, text


@pytest.mark.slow
def test_the_facts_of_a_cpu(tmp_path: Path) -> None:
    found = script._facts(context(tmp_path))
    assert found["sheet"] is None and found["measured"]["bfloat16"] > 0  # type: ignore[index]
    assert "Measured here" in report.markdown(found, [], "2026-11-28")
