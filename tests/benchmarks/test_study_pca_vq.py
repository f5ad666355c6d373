from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.study.arm import Run
from benchmarks.study.results import read_results
from benchmarks.study_pca_vq.__main__ import STUDY, main
from benchmarks.study_pca_vq.arms import make_arms
from benchmarks.study_pca_vq.config import CellConfig, read_cell
from benchmarks.study_pca_vq.quantise import measure_codebook, train_codebook
from benchmarks.study_pca_vq.verdict import paired, write_verdict
from vtp_core.math.row_noise import row_rand, row_randn, row_seeds


def numbers(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return row_randn(row_seeds(seed, torch.arange(rows)), *shape)


def cell(arm: str, *overrides: str) -> CellConfig:
    (found,) = (each for each in make_arms() if each.name == arm)
    small = ("training.batch=256", "training.steps=30", "training.initial=64", "codebook.codebook.codes=16")
    return read_cell(Run(found, 0), (*small, *overrides))


def test_cells_are_distinct_and_their_tables_hold() -> None:
    arms = make_arms()
    assert len({arm.name for arm in arms}) == len(arms)
    assert len({Run(arm, 0).digest() for arm in arms}) == len(arms)
    for arm in arms:
        read_cell(Run(arm, 0))


def test_the_product_of_factors_is_whole() -> None:
    for features in ("cifar", "clipart"):
        cells = [
            read_cell(Run(arm, 0))
            for arm in make_arms()
            if arm.name.startswith(features) and len(arm.seeds) == 3
        ]
        found = {
            (each.codebook.axes.mode, each.training.initialise, each.codebook.codebook.revive)
            for each in cells
            if not each.continuous
        }
        assert found == {
            (mode, start, revive)
            for mode in ("plain", "reweight", "dsq")
            for start in ("data", "kmeans")
            for revive in (False, True)
        }


def test_a_codebook_of_separate_clusters_is_used_whole_and_leaves_their_noise() -> None:
    centers = 10 * numbers(16, 6)
    place = (row_rand(row_seeds(7, torch.arange(2000))) * 16).long()
    vectors = centers[place] + 0.1 * numbers(2000, 6, seed=3)
    book = train_codebook(cell("cifar.plain.kmeans.revive"), vectors[:1500], 0)
    quantised, found = measure_codebook(book, vectors[1500:])
    assert found["use"] == 1
    p = torch.bincount(place[1500:], minlength=16) / 500
    assert found["perplexity"] == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-4)
    variance = (vectors[1500:] - vectors[:1500].mean(0)).square().sum(-1).mean()
    error = (quantised - vectors[1500:]).square().sum(-1).mean()
    assert found["error"] == pytest.approx(float(error / variance), rel=1e-3)
    assert error < 1.2 * 6 * 0.1**2


def test_dimensions_that_are_left_out_count_as_error() -> None:
    scale = torch.tensor([3.0, 2.0, 1.0, 1.0])
    vectors = scale * numbers(4000, 4) + 5
    book = train_codebook(cell("cifar.plain.kmeans.revive", "dimensions=2"), vectors[:3000], 0)
    quantised, found = measure_codebook(book, vectors[3000:])
    variance = (vectors[3000:] - vectors[:3000].mean(0)).square().sum(-1).mean()
    error = (quantised - vectors[3000:]).square().sum(-1).mean()
    assert found["error"] == pytest.approx(float(error / variance), rel=1e-3)
    assert found["error"] > 2 / 15 and found["axes"] == 2
    assert (quantised - book.mean)[:, 2:].abs().max() < 0.3


@pytest.mark.parametrize("start", ["random", "normal", "data"])
def test_a_codebook_starts_as_its_cell_says(start: str) -> None:
    vectors = 5 * numbers(600, 8)
    overrides = (f"training.initialise={start}", "training.steps=1", "codebook.codebook.decay=0.999999")
    book = train_codebook(cell("cifar.plain.kmeans.revive", *overrides), vectors, 0)
    codes = book.quantizer.lookup(torch.arange(16)[:, None])
    if start == "data":
        nearest = torch.cdist(codes, vectors - vectors.mean(0)).min(1).values
        assert nearest.max() < 1e-2
    else:
        expected = 8**-0.5 if start == "random" else 5
        assert codes.std().item() == pytest.approx(expected, rel=0.25)


def test_intervals_of_paired_differences() -> None:
    mean, half = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    # scipy.stats.t.interval(0.95, 2, loc=2, scale=scipy.stats.sem([2, 3, 1]))
    assert (mean, half) == (pytest.approx(2.0), pytest.approx(2.48414, rel=1e-3))
    assert paired([1.0], [0.5]) == (0.5, math.inf)


@pytest.mark.slow
def test_the_study_runs_and_says_what_it_found(tmp_path: Path) -> None:
    results = tmp_path / "results"
    only = "cifar.plain.data.revive,cifar.dsq_90.kmeans.revive.dims_8,cifar.dino_dec,use.pixels"
    command = ["--tiny", "--results", str(results)]
    made = CliRunner().invoke(main, [*command, "run", "--work", str(tmp_path), "--only", only])
    assert made.exit_code == 0, made.output
    assert {path.stem for path in results.iterdir()} == {f"{arm}_seed0" for arm in only.split(",")}
    record = json.loads((results / "cifar.plain.data.revive_seed0.json").read_text())
    assert record["metrics"]["psnr"]["value"] > record["metrics"]["psnr"]["baseline"] - 3
    again = CliRunner().invoke(main, [*command, "run", "--work", str(tmp_path), "--only", only])
    assert again.output == "all chosen runs are there\n"
    stopped = CliRunner().invoke(main, [*command, "run", "--work", str(tmp_path), "--budget", "0"])
    assert "are left" in stopped.output
    for words in (["table"], ["verdict"], ["plot", str(tmp_path / "plot.svg")]):
        shown = CliRunner().invoke(main, [*command, *words])
        assert shown.exit_code == 0, shown.output
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_the_committed_records_are_of_these_cells() -> None:
    found = read_results(STUDY.arms(False), STUDY.folder / "results")
    assert not found.stale
    assert "within 10 points" in write_verdict(found)
