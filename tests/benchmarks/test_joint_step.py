from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from benchmarks.joint_step.__main__ import main
from benchmarks.joint_step.ladder import RUNGS, build_rung, disagreement
from benchmarks.joint_step.measurement import key, run_ladder
from benchmarks.joint_step.report import markdown
from benchmarks.joint_step.setting import TINY

PLAIN = "three plain steps"
UNCOMPILED = [name for name in RUNGS if "compiled" not in name]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_first_losses_of_all_rungs_are_those_of_plain_torch(precision) -> None:
    plain = build_rung(PLAIN, precision, TINY)
    assert len(plain.first) == 5
    for name in UNCOMPILED[1:]:
        assert disagreement(build_rung(name, precision, TINY), plain) is None


def test_a_rung_that_trains_something_else_is_found() -> None:
    plain = build_rung(PLAIN, "float32", TINY)
    other = replace(
        plain, first=plain.first | {"dino/distillation": plain.first["dino/distillation"] * 1.001}
    )
    assert "dino/distillation is" in (disagreement(other, plain) or "")
    del (less := dict(plain.first))["koleo/spread"]
    assert "terms" in (disagreement(replace(plain, first=less), plain) or "")


def test_plain_steps_learn() -> None:
    plain = build_rung(PLAIN, "float32", TINY)
    losses = [plain.step() for _ in range(12)]
    assert losses[0]["clip/contrast"] == pytest.approx(plain.first["clip/contrast"], rel=1e-6)
    assert losses[-1]["clip/contrast"] < losses[0]["clip/contrast"]
    assert losses[-1]["l1/pixels"] < losses[0]["l1/pixels"]


def test_the_report_compares_times_with_both_plain_precisions() -> None:
    found = run_ladder([PLAIN, "joint"], TINY, rounds=2)
    for name, seconds in (
        ("joint, bfloat16", 1.0),
        (key(PLAIN, "float32"), 4.0),
        (key(PLAIN, "bfloat16"), 2.0),
    ):
        found["variants"][name]["median"] = seconds
    row = next(line for line in markdown(found).splitlines() if line.startswith("| joint | bfloat16"))
    assert row.split("|")[4:6] == [" 0.250 ", " 0.500 "]


def test_an_unknown_rung_is_one_line() -> None:
    done = CliRunner().invoke(main, ["--tiny", "--rungs", "nothing"])
    assert done.exit_code == 1 and "no rung 'nothing'" in done.output
