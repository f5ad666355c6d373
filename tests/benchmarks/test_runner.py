from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import PACKAGES, main
from vtp_plugins.bench.case import CASES, BenchCase, CaseError, compare, load, names, shapes
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.report import Circumstances, markdown, result
from vtp_plugins.kernels.timing import measure, measure_part, summarize


class Machine:
    """A clock that only moves when a variant runs, and notes who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[str] = []

    def variant(self, name: str, seconds: float, answer: object = 1) -> Callable[[], object]:
        def call() -> object:
            self.now += seconds
            self.runs.append(name)
            return answer

        return call


def case(variants: dict[str, Callable[[], object]]) -> BenchCase:
    def check(found: object, expected: object) -> str | None:
        return None if found == expected else f"{found} is not {expected}"

    return BenchCase(
        name="drawn", question="Which?", rows=10, unit="rows", variants=variants, check=check, flop=10
    )


def test_times_are_those_of_the_variants_and_short_calls_are_repeated() -> None:
    machine = Machine()
    calls = {"slow": machine.variant("slow", 0.5), "fast": machine.variant("fast", 1e-4)}
    timings = measure(calls, rounds=5, clock=lambda: machine.now)
    assert timings["slow"].median == pytest.approx(0.5) and timings["slow"].repeats == 1
    assert timings["fast"].median == pytest.approx(1e-4) and timings["fast"].repeats >= 50


def test_variants_take_turns_and_no_one_is_always_first() -> None:
    machine = Machine()
    measure({name: machine.variant(name, 1.0) for name in "abc"}, rounds=3, clock=lambda: machine.now)
    assert "".join(machine.runs[-9:]) == "abcbcacab"


def test_a_variant_that_answers_something_else_is_not_timed() -> None:
    machine = Machine()
    drawn = case({"right": machine.variant("right", 1.0), "wrong": machine.variant("wrong", 1.0, answer=2)})
    with pytest.raises(CaseError, match="wrong disagrees with right: 2 is not 1"):
        compare(drawn)


def test_quartiles_are_numpys() -> None:
    times = numpy.random.default_rng(3).exponential(size=21)
    timing = summarize([(seconds, 2 * seconds) for seconds in times], repeats=1)
    assert timing.wall == pytest.approx(2 * timing.median)
    numpy.testing.assert_allclose(
        [timing.low, timing.median, timing.high], numpy.quantile(times, [0.25, 0.5, 0.75])
    )


def test_a_report_compares_with_the_reference_and_names_the_machine() -> None:
    machine = Machine()
    drawn = case({"slow": machine.variant("slow", 0.5), "fast": machine.variant("fast", 0.125)})
    timings = measure(drawn.variants, rounds=2, clock=lambda: machine.now)
    under = Circumstances(date="2026-01-31", clock="a clock", threads=1, peaks={"float32": 400.0})
    found = result(drawn, timings, under, memory={"fast": 3 * 2**20})
    assert found["variants"]["fast"]["speedup"] == pytest.approx(4)
    assert found["variants"]["slow"]["rows_per_s"] == pytest.approx(20)
    text = markdown([found])
    row = next(line for line in text.splitlines() if line.startswith("| fast"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:2] == ["fast", "125.000 (125.000 to 125.000)"]
    assert cells[3:] == ["80", "20 %", "3.0", "4.00 x"], "10 operations in 0.125 s are 20 % of 400 a second"
    assert found["machine"]["processor"] in text and "2026-01-31" in text


def test_a_part_is_timed_within_the_whole_call() -> None:
    machine = Machine()
    drawn = case({"whole": machine.variant("whole", 0.5)})

    def part(clock: Callable[[], float]) -> float:
        machine.now += 0.3
        start = clock()
        machine.now += 0.2
        return clock() - start

    def now() -> float:
        return machine.now

    timings = measure(drawn.variants, rounds=3, clock=now)
    found = measure_part(part, timings["whole"], now)
    assert found.rounds == 3 and found.median == pytest.approx(0.2)
    under = Circumstances(date="2026-01-31", clock="a clock", threads=1, peaks={})
    text = markdown([result(drawn, timings, under, parts={"meters": found})])
    assert "- meters, timed in place: 200.000 ms (200.000 to 200.000), 40.0 % of whole." in text


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    arguments = ["resize", "--rounds", "2", "--json", str(tmp_path / "out.json"), "--reports", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert set(found["variants"]) == {"pillow", "torch", "torch, channels first"}
    assert (tmp_path / f"resize_{found['date']}.md").read_text() == markdown([found])


def test_an_unknown_case_is_one_line() -> None:
    done = CliRunner().invoke(main, ["nothing"])
    assert done.exit_code == 1 and 'no case "nothing"; there are: ' in done.output


@pytest.mark.parametrize("name", names(["benchmarks.cases"]))
def test_the_variants_of_every_case_of_the_project_agree(name: str) -> None:
    built = load(name, shapes(name, PACKAGES)[0], BenchOptions(), PACKAGES)
    assert built.name == name and len(built.variants) > 1
    compare(built)


def test_the_cases_of_the_package_are_listed_beside_those_of_the_project() -> None:
    done = CliRunner().invoke(main, ["--list"])
    assert done.exit_code == 0 and set(names(PACKAGES)) > set(names([CASES]))
    assert [line.split(":")[0] for line in done.output.splitlines()] == names(PACKAGES)
