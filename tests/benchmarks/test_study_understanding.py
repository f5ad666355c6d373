"""Rank correlations against scipy; arms, records and verdict; the whole study at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy
import pytest
from click.testing import CliRunner
from scipy import stats

from benchmarks.study.arm import Run
from benchmarks.study.proxies import KERNEL
from benchmarks.study.record import write_record
from benchmarks.study.results import Results, read_results
from benchmarks.study.runner import Bench
from benchmarks.study_understanding.__main__ import main
from benchmarks.study_understanding.arms import (
    DISCRETE,
    EXTRA_PROXIES,
    FROZEN,
    is_tiny,
    make_arms,
    proxy_seeds,
)
from benchmarks.study_understanding.figures import LATENTS, PSNR
from benchmarks.study_understanding.proxies import first_of, link_first, missing
from benchmarks.study_understanding.statistics import (
    correlate,
    partial_spearman,
    ranks,
    repeatability,
    spearman,
)
from benchmarks.study_understanding.verdict import correlation, finding, findings, write_verdict
from vtp_core.recipe import load_recipe


def drawn(count: int, seed: int = 0, *, ties: bool = False) -> numpy.ndarray[Any, Any]:
    values = numpy.random.default_rng(seed).normal(size=(3, count))
    values[1] += values[0]
    values[2] += values[0]
    return numpy.round(values, 0) if ties else values


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties: bool) -> None:
    for seed in range(5):
        x, y, z = drawn(24, seed, ties=ties)
        assert ranks(x) == pytest.approx(stats.rankdata(x))
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        # What is left of the ranks after a linear fit to those of the third number.
        left = []
        for values in (x, y):
            fit = stats.linregress(stats.rankdata(z), stats.rankdata(values))
            left.append(stats.rankdata(values) - fit.intercept - fit.slope * stats.rankdata(z))
        assert partial_spearman(x, y, z) == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-10)


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    x, y, _ = drawn(30)
    found = correlate(x, y)
    assert found is not None and found.arms == 30
    expected = stats.bootstrap(
        (x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=1000,
        method="percentile", rng=numpy.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)
    assert found.low < found.rho < found.high


def test_noise_lowers_the_rank_correlation_of_a_number_with_itself() -> None:
    x, generator = drawn(30)[0], numpy.random.default_rng(5)
    assert repeatability(x, 0.0) == pytest.approx(1)
    again = [stats.spearmanr(x, x + generator.normal(0, 0.5, 30)).statistic for _ in range(500)]
    assert repeatability(x, 0.5) == pytest.approx(numpy.mean(again), abs=0.01)
    # Outliers do not hide that the others are in no safe order.
    assert repeatability(numpy.append(x, 1e6), 0.5) < 0.95


def test_arms_without_a_number_are_left_out_and_few_or_constant_ones_not_judged() -> None:
    x, y, z = drawn(12)
    x[:3] = numpy.nan
    found = correlate(x, y)
    assert found is not None and found.arms == 9
    assert found.rho == pytest.approx(stats.spearmanr(x[3:], y[3:]).statistic)
    x[:5] = numpy.nan
    assert correlate(x, y) is None
    assert correlate(numpy.ones(12), y) is None
    assert correlate(y, z, y) is None  # nothing is left of the first


def test_arms_are_valid_recipes_that_differ_and_start_from_one_another() -> None:
    arms = make_arms()
    names = [arm.name for arm in arms]
    assert len(names) == len(set(names)) >= 24
    assert {*DISCRETE, *FROZEN, *EXTRA_PROXIES} <= set(names)
    assert len({Run(arm, 0).digest() for arm in arms}) == len(arms)
    own = [arm for arm in arms if arm.first is not None or "bottleneck={" in " ".join(arm.overrides)]
    for arm in own:
        assert load_recipe(str(arm.recipe), Run(arm, 0).overrides).evaluators.keys() >= {"diffusability"}
    for number, arm in enumerate(arms):
        if arm.first is not None:
            before = [(other.recipe, other.overrides) for other in arms[:number]]
            assert (arm.first, arm.first_overrides) in before
    for arm, small in zip(arms, make_arms(tiny=True), strict=True):
        assert arm.name == small.name and is_tiny(small) and not is_tiny(arm)
        assert proxy_seeds(arm.name) == ((0, 1, 2, 3, 4) if arm.name in EXTRA_PROXIES else (0,))


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.study_understanding.statistics.DRAWS", 200)


def records(folder: Path, slope: float, noise: float = 0.1, count: int = 31) -> Results:
    """Records of the first arms; the distance is `slope` times the probe, and PSNR says nothing of it."""
    generator = numpy.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number, arm in enumerate(make_arms()[:count]):
        run = Run(arm, 0)
        psnr = float(generator.normal())
        distance = slope * number + noise * float(generator.normal())
        metrics = {LATENTS: number, PSNR: psnr, KERNEL: distance}
        proxies = [
            {"seed": seed, "kernel": distance + (0.01 * seed if seed else 0.0)}
            for seed in proxy_seeds(arm.name)
        ]
        entries: dict[str, dict[str, Any]] = {
            name: {"value": value, "protocol": "one"} for name, value in metrics.items()
        }
        entries[KERNEL] |= {"baseline": 0.5 + distance * (arm.name != "vq"), "baseline_name": "Gaussian"}
        write_record(
            {
                "settings": run.digest(), "data": "cifar10", "flops": 1.0, "cpu_seconds": 1.0, "training": {},
                "metrics": entries, "proxies": proxies,
            },
            folder / f"{run.name}.json",
        )  # fmt: skip
    return read_results(make_arms(), folder)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(("slope", "said"), [(-1.0, "appeared"), (1.0, "reversed")])
def test_the_verdict_follows_the_records(tmp_path: Path, slope: float, said: str) -> None:
    found = records(tmp_path / "records", slope)
    assert finding(correlation(found, LATENTS), -1) == said
    assert finding(correlation(found, LATENTS, given=PSNR), -1) == said
    text = write_verdict(found)
    assert f"given PSNR: {'-' if slope < 0 else '+'}1.00" in text and f"), {said}\n" in text
    assert ("As they are: yes, over these" if slope < 0 else "As they are: the opposite") in text
    assert findings(found)["probe against distance, given PSNR"] == said
    assert "The strongest is: probe, latent map." in text
    assert f"{'more' if slope < 0 else 'less'} of it goes with better samples" in text
    # vq stands at number 19.
    assert f"{31 if slope < 0 else 30} of 31 proxies have a smaller distance than decoded Gaussian" in text


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(("count", "said"), [(24, "appeared"), (23, "open")])
def test_fewer_than_24_arms_are_not_judged(tmp_path: Path, count: int, said: str) -> None:
    """So the ledger of claims holds while records arrive."""
    found = records(tmp_path / "records", -1.0, count=count)
    assert findings(found)["probe against distance"] == said
    assert set(findings(found).values()) == {"open"} or count == 24
    text = write_verdict(found)
    assert ("Provisional: 23 arms" in text) == ("Not judged: no number" in text) == (count < 24)
    assert "24 tokenizers or more have" in text or count < 24


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(("sign", "said"), [(1, "appeared"), (-1, "reversed")])
def test_psnr_that_goes_with_better_samples_speaks_against_the_paper(
    tmp_path: Path, sign: int, said: str
) -> None:
    found = records(tmp_path / "records", -1.0)
    for each in found.records.values():
        entries = each[0]["metrics"]
        entries[PSNR] = {"value": sign * entries[KERNEL]["value"], "protocol": "one"}
    assert findings(found)["distance does not fall with PSNR"] == said
    text = write_verdict(found)
    assert ("contradicts the paper" if sign < 0 else "which agrees with the paper") in text
    assert findings(found)["probe against distance, given PSNR"] == "open"  # nothing is left of the distance


@pytest.mark.usefixtures("few_draws")
def test_the_error_of_one_proxy_is_that_of_repeated_ones(tmp_path: Path) -> None:
    found = records(tmp_path / "records", -1.0)
    kernels = [[proxy["kernel"] for proxy in found.records[arm][0]["proxies"]] for arm in EXTRA_PROXIES]
    error = numpy.var(kernels, axis=1, ddof=1).mean()
    distances = numpy.array([each[0]["metrics"][KERNEL]["value"] for each in found.records.values()])
    text = write_verdict(found)
    assert (
        f"distance {error**0.5:.2g}, of the distances of all tokenizers {distances.std(ddof=1):.2g}." in text
    )
    assert f"rank correlation of {repeatability(distances, error**0.5):.3f} with themselves" in text
    assert text.count("over 5 proxies") == len(EXTRA_PROXIES)
    for each in found.records.values():
        each[0]["proxies"][1:] = []
    assert "No tokenizer has several proxies yet" in write_verdict(found)


def test_without_a_relation_nothing_is_told_from_chance(tmp_path: Path) -> None:
    found = records(tmp_path / "records", 0.0)
    assert finding(correlation(found, LATENTS), -1) in ("leaning", "absent")
    assert finding(None, -1) == "open"


def test_distances_of_other_protocols_are_not_compared(tmp_path: Path) -> None:
    found = records(tmp_path / "records", -1.0)
    found.records["vq"][0]["metrics"][KERNEL]["protocol"] = "another"  # type: ignore[index]
    assert "2 protocols" in write_verdict(found)


@pytest.mark.usefixtures("few_draws")
def test_numbers_of_other_protocols_are_named(tmp_path: Path) -> None:
    found = records(tmp_path / "records", -1.0)
    assert "more than one protocol" not in write_verdict(found)
    found.records["vq"][0]["metrics"][PSNR]["protocol"] = "another"  # type: ignore[index]
    assert "more than one protocol, so compare with care: PSNR." in write_verdict(found)


def test_few_arms_are_not_judged(tmp_path: Path) -> None:
    assert "Too few to judge: 0 arms" in write_verdict(read_results(make_arms(), tmp_path))


def test_a_finished_run_stands_for_a_first_stage(tmp_path: Path) -> None:
    bench = Bench(study="s", data="samples", overrides=(), work=tmp_path, results=tmp_path / "results")
    runs = {run.arm.name: run for run in (Run(arm, 0) for arm in make_arms())}
    stage, start = runs["gan_stage_ae_d4"], runs["ae_d4"]
    first = first_of(stage, [*runs.values()])
    assert first == start
    assert first_of(start, [*runs.values()]) is None
    link = tmp_path / f"{stage.name}_first"
    link_first(stage, first, bench)
    assert not link.exists()
    (tmp_path / start.name).mkdir()
    (tmp_path / start.name / "report.html").touch()
    link_first(stage, first, bench)
    assert not link.exists()
    (tmp_path / "results").mkdir()
    record = {"settings": "others", "data": "samples"}
    bench.result(start).write_text(json.dumps(record))
    with pytest.raises(click.ClickException, match="of other settings or data"):
        link_first(stage, first, bench)
    bench.result(start).write_text(json.dumps({**record, "settings": start.digest()}))
    link_first(stage, first, bench)
    assert link.resolve() == (tmp_path / start.name).resolve()
    bench.result(start).unlink()
    assert missing(start, bench) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["--tiny", "--results", str(results)]
    chosen = ["--only", "ae_d16,vq,frozen_ae", "--work", str(tmp_path / "work")]
    runner = CliRunner()
    made = runner.invoke(main, [*arguments, "run", *chosen])
    assert made.exit_code == 0, made.output
    assert "all chosen runs are there" in made.output
    vq = json.loads((results / "vq_seed0.json").read_text())
    assert [proxy["seed"] for proxy in vq["proxies"]] == [0, 1, 2, 3, 4]
    assert {KERNEL, LATENTS, PSNR, "spectrum_slope", "decode_codes_0.1", "channels"} <= vq["metrics"].keys()
    assert vq["metrics"][KERNEL]["value"] == vq["proxies"][0]["kernel"]
    assert len({proxy["kernel"] for proxy in vq["proxies"]}) == 5
    assert (tmp_path / "work" / "frozen_ae_seed0_first").is_symlink()
    assert runner.invoke(main, [*arguments, "run", *chosen]).output == "all chosen runs are there\n"
    assert "3 of 31 runs are there" in runner.invoke(main, [*arguments, "table"]).output
    drawn = runner.invoke(main, [*arguments, "plot", str(tmp_path / "plot.svg")])
    assert drawn.exit_code == 0, drawn.output
    assert "too few to judge" in runner.invoke(main, [*arguments, "verdict"]).output
