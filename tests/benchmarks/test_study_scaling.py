from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

from benchmarks.study.arm import Run
from benchmarks.study.proxies import ProxyPool, Request
from benchmarks.study.record import write_record
from benchmarks.study.results import read_results
from benchmarks.study.runner import Bench
from benchmarks.study_scaling.__main__ import STUDY, data, main
from benchmarks.study_scaling.arms import FAMILIES, arm_name, chains_of, make_arms
from benchmarks.study_scaling.curves import METRICS, curves
from benchmarks.study_scaling.verdict import DATA, data_arm, write_verdict


def test_the_arms_are_those_of_the_issue() -> None:
    names = [arm.name for arm in make_arms()]
    assert len(names) == len(set(names)) == 18
    assert {data_arm(family, images) for family in FAMILIES for images in DATA} <= set(names)
    assert all(arm.seeds == (0, 1) for arm in make_arms())
    runs = {arm_name(run): run for chain in chains_of((), tiny=False) for run in chain if run.seed == 0}
    assert set(runs) == set(names)
    small, parts = (runs[data_arm("all", images)].loaded for images in ("30000", "500"))
    assert parts.data.source.part == (0.0, 0.016667) and small.data.source.part is None
    for table in ("views", "encoder", "bottleneck", "decoder", "objectives", "optimizer", "ema"):
        assert getattr(small, table) == getattr(parts, table)
    deep = runs["ae_decoder12_steps320"].loaded.decoder.model_dump()
    assert deep == {**runs["ae_s_steps320"].loaded.decoder.model_dump(), "depth": 12}


def test_probes_are_fitted_on_all_images_where_a_part_was_trained_on(tmp_path: Path) -> None:
    for name in ("cifar10-train-0.tar", "cifar10-test-0.tar"):
        (tmp_path / name).touch()
    (tmp_path / "cifar10-classes.json").write_text('["a", "b"]')
    name, overrides = data(tmp_path)
    runs = [
        run for chain in chains_of(overrides, tiny=True) for run in chain if run.levels.get("images") == "500"
    ]
    assert name == "cifar10" and len(runs) == 4
    for run in runs:
        trained, fitted = run.loaded.data.source, run.loaded.evaluate.train_source
        assert trained.part == (0.0, 0.05) and fitted is not None
        assert fitted == trained.model_copy(update={"part": None})


def record(run: Run, kernel: float) -> dict[str, object]:
    """A record of a run of the main grid, as `making` writes it."""
    family, size, steps = run.arm.name.split("_")
    flops = int(steps.removeprefix("steps")) * {"s": 1e9, "b": 4e9}[size]
    metrics = dict(zip(METRICS, (0.4, 25.0, kernel, 100 * kernel), strict=True))
    return {
        "run": run.name, "arm": run.arm.name, "seed": run.seed, "settings": run.digest(), "data": "cifar10",
        "forward_flops": flops, "tokenizer_parameters": 10, "samples": 10, "levels": {"size": size},
        "chain": f"{family}_{size}_{run.seed}", "family": family, "training": {},
        "cpu_seconds": 1.0, "flops": 1,
        "metrics": {
            name: {"value": value, "higher_is_better": name in ("linear_probe", "psnr"), "protocol": "p"}
            for name, value in metrics.items()
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "slope", "words"),
    [
        (3.0, 0.0, "\nBy the fitted curves AE is ahead over the whole"),
        (0.3, 0.0, "\nBy the fitted curves CLIP + SSL + AE is ahead over the whole"),
        (
            1.0,
            -0.4,
            "AE is ahead at the least compute that both families have here and CLIP + SSL + AE at the",
        ),
        (
            1.0,
            0.0,
            "neither family is ahead beyond noise at the greatest",
        ),
    ],
)
def test_the_verdict_places_what_is_measured_in_the_papers_figure(
    factor: float, slope: float, words: str, tmp_path: Path
) -> None:
    generator = numpy.random.default_rng(0)
    arms = [arm for arm in make_arms() if arm.name.split("_")[1] in ("s", "b")]
    for arm in arms:
        for seed in arm.seeds:
            flops = float(record(Run(arm, seed), 1.0)["forward_flops"])  # type: ignore[arg-type]
            kernel = flops**-0.1 * (1 + 0.01 * seed + 0.01 * generator.normal())
            kernel *= factor * (flops / 2e12) ** slope if arm.name.startswith("all") else 1.0
            write_record(record(Run(arm, seed), kernel), tmp_path / f"{arm.name}_seed{seed}.json")
    found = read_results(make_arms(), tmp_path)
    text = write_verdict(found)
    assert words in text and "1e19 forward FLOPs" in text and "37 million" in text
    assert ("agrees with the paper's figure" in text) == (factor > 1) and "Provisional" not in text
    assert {shown.metric for shown in curves(found)} == set(METRICS)
    assert {len(shown.series) for shown in curves(found, sizes=True)} == {4}
    STUDY.draw(STUDY.name, found, STUDY.columns, tmp_path / "figure.svg")
    assert "CLIP + SSL + AE" in (tmp_path / "figure.svg").read_text()


def test_proxies_that_have_not_begun_are_left_when_it_is_time(tmp_path: Path) -> None:
    stop, made = threading.Event(), []

    class Waiting(Future[str]):
        def cancel(self) -> bool:
            """As an executor does it that has not begun it."""
            return self.cancelled() or (super().cancel() and not self.set_running_or_notify_cancel())

    class Later:
        """The first is done at once, the others never."""

        def submit(self, _: object, request: Request) -> Waiting:
            made.append(Waiting())
            if request.seed == 0:
                made[0].set_result("no time")
            return made[-1]

    bench = Bench(study="s", data="samples", overrides=(), work=tmp_path, results=tmp_path)
    pool = ProxyPool(bench, float("inf"), stop, tiny=True)
    pool._pool = Later()  # type: ignore[assignment]
    stop.set()
    assert list(pool.measure([Request(name="a", tokenizer=tmp_path, seed=seed) for seed in range(3)])) == []
    assert [future.cancelled() for future in made] == [False, True, True]


def test_a_part_of_the_runs_is_provisional(tmp_path: Path) -> None:
    for arm in (arm for arm in make_arms() if arm.name.split("_")[1] in ("s", "b")):
        write_record(record(Run(arm, 0), 1.0), tmp_path / f"{arm.name}_seed0.json")
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert "12 of 36 runs are there" in text and "Provisional: 2 of 4 training runs of a family" in text


@pytest.mark.parametrize("tiny", [False, True])
def test_without_records_the_verdict_is_open(tmp_path: Path, tiny: bool) -> None:
    text = write_verdict(read_results(make_arms(tiny), tmp_path))
    assert (
        f"0 of {28 if tiny else 36} runs are there" in text
        and "Open: the proxy's distance" in text
        and "1e19" in text
    )


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["--tiny", "--results", str(results)]
    only = "ae_s_steps4,ae_s_steps8,all_images500_steps4"
    chosen = ["--only", only, "--seeds", "0", "--work", str(tmp_path / "work")]
    runner = CliRunner()
    assert runner.invoke(main, [*arguments, "run", *chosen, "--budget", "0"]).output.startswith(
        "3 of the chosen"
    )
    made = runner.invoke(main, [*arguments, "run", *chosen])
    assert made.exit_code == 0, made.output
    proxy, branch_starts = "ae_s_steps8_seed0: proxy 0", "ae-s-steps4-seed0: starts"
    assert made.output.index(proxy) < made.output.index(branch_starts)  # it follows its tokenizer at once
    records = {path.stem: json.loads(path.read_text()) for path in results.iterdir()}
    assert len(records) == 3
    longest, branch = records["ae_s_steps8_seed0"], records["ae_s_steps4_seed0"]
    assert branch["chain"] == longest["chain"] and longest["forward_flops"] == 2 * branch["forward_flops"] > 0
    for each in records.values():
        assert {"linear_probe", "psnr", "probe_gen_kernel"} <= each["metrics"].keys()
        assert "samples/train" in each["metrics"]["linear_probe"]["protocol"]
    assert runner.invoke(main, [*arguments, "run", *chosen]).output == "all chosen runs are there\n"
    assert "too few to judge" in runner.invoke(main, [*arguments, "verdict"]).output
