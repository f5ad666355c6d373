"""Sessions: workers that fail in every way, what was wrong is named and left out, the rest is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_plugins.kernels.tuning import command, session
from vtp_plugins.kernels.tuning.session import Session, all_shapes
from vtp_plugins.kernels.tuning.shapes import SHAPES

SMALL = [5, 6]
"""Two float32 shapes of attention that take milliseconds."""
SEARCH = [8]
ROW = {"dtype": "float32", "tokens": 65}

# A worker without torch: `trouble` is what happens when the implementation "bad" is tried or timed.
SCRIPT = """
import json, os, sys, time

order = json.loads(sys.argv[1])

def say(**event):
    print(json.dumps(event), flush=True)

def trouble(index):
    {trouble}

for index in order["shapes"]:
    operator = "attention" if index < 8 else "nearest_code"
    say(event="shape", index=index)
    names = [n for n in ("bad", "good") if [operator, n, "float32"] not in order["excluded"]]
    agreed = []
    for name in names:
        say(event="trying", index=index, name=name)
        if name == "bad" and {when_tried} and trouble(index):
            continue
        agreed.append(name)
    say(event="timing", index=index)
    if "bad" in agreed and not {when_tried}:
        trouble(index)
    seconds = {{name: {{"step": 1.0 + len(name)}} for name in (*agreed, "yardstick")}}
    row = {{"dtype": "float32", "tokens": 65}} if index < 8 else {{"dtype": "float32", "codes": 9}}
    say(event="timed", index=index, seconds=seconds, implementations=agreed, attributes=row, work={{}})
"""


def scripted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, trouble: str = "pass", *, when_tried: bool = True
) -> None:
    file = folder / "worker.py"
    file.write_text(SCRIPT.format(trouble=trouble, when_tried=when_tried))
    monkeypatch.setattr(session, "COMMAND", (sys.executable, str(file)))


FAILED = (
    'say(event="failed", index=index, name="bad", reason="output is off"); '
    'order["excluded"].append(["attention", "bad", "float32"]); '
)
TROUBLES = {
    "disagrees": (FAILED + "return True", "output is off"),
    "dies": (
        "sys.stderr.write('a last word\\n'); sys.stderr.flush(); os._exit(9)",
        "ended the process (exit code 9: a last word)",
    ),
    "is killed": ("os.kill(os.getpid(), 9)", "ended the process (exit code -9: no message)"),
    "hangs": ("time.sleep(1000)", "gave no sign of life for 2 s"),
    "breaks the device": ("os._exit(3)", "left the device unusable"),
    "disagrees and breaks the device": (FAILED + "os._exit(3)", "output is off"),
}


@pytest.mark.parametrize("how", TROUBLES)
def test_an_implementation_that_fails_is_named_and_the_rest_is_measured(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble, reason = TROUBLES[how]
    scripted(monkeypatch, tmp_path, trouble)
    monkeypatch.setattr(session, "SILENCE", 2.0 if how == "hangs" else 60.0)
    told: list[str] = []
    found = Session("cpu", SMALL, tell=told.append)
    found.run()
    first, _ = found.measured
    assert first.failed == {"bad": reason}
    assert [it.skipped for it in found.measured] == [None, None]
    assert told.count(f"  bad is left out for float32: {reason}") == 1
    for case in found.ranking("attention").cases:
        assert case.names == ("good",), "neither the bad one nor a yardstick"


def test_without_trouble_the_fastest_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, tmp_path)
    found = Session("cpu", [*SMALL, *SEARCH])
    found.run()
    assert [case.names for case in found.ranking("attention").cases] == [("bad", "good")] * 2
    assert [case.names for case in found.ranking("nearest_code").cases] == [("bad", "good")]
    assert found.ranking("attention").device == "cpu"


def test_what_fails_later_is_out_of_the_ranking_of_earlier_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, tmp_path, "if index == 6: os._exit(1)")
    found = Session("cpu", [*SMALL, *SEARCH])
    found.run()
    dense, packed, search = found.measured
    assert "bad" in dense.order and "bad" in packed.failed and "bad" in search.order
    assert [case.names for case in found.ranking("attention").cases] == [("good",)] * 2
    assert [case.names for case in found.ranking("nearest_code").cases] == [("bad", "good")]


def test_a_worker_that_dies_while_it_times_costs_its_shape_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, tmp_path, "if index == 5: os._exit(7)", when_tried=False)
    found = Session("cpu", [*SMALL, *SEARCH])
    found.run()
    assert [it.skipped for it in found.measured] == [
        "ended the process (exit code 7: no message)", None, None
    ]  # fmt: skip
    assert len(found.ranking("attention").cases) == 1


def test_a_worker_that_can_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "COMMAND", (sys.executable, "-c", "import no_such_module_of_ours"))
    with pytest.raises(UsageError, match=r"a worker could not start: .*No module named"):
        Session("cpu", SMALL).run()


def test_the_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, tmp_path, "if index == 6: time.sleep(1000)")
    found = Session("cpu", [*SMALL, *SEARCH], seconds=3)
    found.run()
    late = "not measured, the time was up"
    assert [it.skipped for it in found.measured] == [None, late, late]
    assert not found.measured[1].failed and found.measured[0].order == ["bad", "good"]


def test_the_order_is_that_of_the_times() -> None:
    measured = session.Measured(
        index=0,
        seconds={"a": {"step": 3.0}, "b": {"step": 1.0, "forward": 9.0}, "flash": {"step": 0.5}},
        implementations=["a", "b"],
    )
    assert measured.order == ["b", "a"] and measured.operator == "attention"


def test_every_shape_is_measured_unless_an_operator_is_named() -> None:
    assert all_shapes() == list(range(len(SHAPES)))
    assert all_shapes(["nearest_code"]) == [i for i, shape in enumerate(SHAPES) if hasattr(shape, "codes")]


def tune(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(session, "all_shapes", lambda: [*SMALL, *SEARCH])
    return CliRunner().invoke(main, ["kernels", "tune", "--rounds", "2", *options])


@pytest.mark.slow
def test_the_command_measures_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    result = tune(monkeypatch, tmp_path, "--device", "cpu", "--json", str(out))
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert [row["skipped"] for row in data["measured"]] == [None, None, None]
    (file,) = (tmp_path / "vtp/tuned").iterdir()
    assert str(file) in result.output and json.loads(file.read_text())["key"] == data["key"]
    assert "On CPUs [kernels] auto keeps its order by instruction set" in result.output
    assert "against torch's own" in result.output and "1.00 x" in result.output
    listed = CliRunner().invoke(main, ["kernels", "list"]).output
    assert f"measured on {data['date']}, for information" in listed
    facts = json.loads(CliRunner().invoke(main, ["kernels", "list", "--json"]).output)
    assert facts["measured"][0]["device"] == "cpu"


def test_a_slower_choice_of_auto_on_a_cpu_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, tmp_path)
    result = tune(monkeypatch, tmp_path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "3 shapes were faster otherwise:" in result.output and "bad was faster" in result.output


def test_nothing_measured_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, tmp_path, "time.sleep(1000)")
    result = tune(monkeypatch, tmp_path, "--device", "cpu", "--seconds", "1")
    assert result.exit_code == 2 and "nothing could be measured on cpu" in result.output
    assert not (tmp_path / "vtp").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abacus", "unknown; use cpu, cuda or cuda:1"),
        ("cuda:99", "CUDA devices here"),
        ("meta", "unknown; use cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(name: str, message: str) -> None:
    result = CliRunner().invoke(main, ["kernels", "tune", "--device", name])
    assert result.exit_code == 2 and f"--device {name}: " in result.output and message in result.output


def test_cuda_is_the_default_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(command._device("cpu")) == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(command._device(None)) == "cuda:0" and str(command._device("cuda:1")) == "cuda:1"
    assert str(command._device("cpu")) == "cpu"
