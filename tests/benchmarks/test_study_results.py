from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.study.arm import Arm, Run
from benchmarks.study.claim import Finding, judge
from benchmarks.study.record import write_record
from benchmarks.study.results import read_results, spread
from benchmarks.study.table import Column, markdown, plot
from benchmarks.study_objectives.__main__ import STUDY, main
from benchmarks.study_objectives.arms import make_arms
from benchmarks.study_objectives.verdict import ENTROPY, FEATURES, LATENTS, PSNR, summary, write_verdict


def put(folder: Path, arm: Arm, seed: int, metrics: Mapping[str, float], data: str = "cifar10") -> None:
    run = Run(arm, seed)
    folder.mkdir(exist_ok=True)
    entries = {
        name: {"value": value, "baseline": 0.25, "baseline_name": "raw pixels"}
        for name, value in metrics.items()
    }
    record = {"settings": run.digest(), "data": data, "flops": 2 * 10**16, "cpu_seconds": 90.0}
    write_record({**record, "metrics": entries, "training": {ENTROPY: 3.5}}, folder / f"{run.name}.json")


def main_arms(folder: Path, probes: Mapping[str, Sequence[float]]) -> None:
    arms = {arm.name: arm for arm in make_arms()}
    for name, values in probes.items():
        for seed, value in enumerate(values):
            metrics = {LATENTS: value, FEATURES: value + 0.1, PSNR: 20.0 + seed}
            put(folder, arms[f"{name}_d4"], seed, metrics)


IN_ORDER = {
    "ae": (0.30, 0.31, 0.32),
    "clip_ae": (0.40, 0.41, 0.42),
    "ssl_ae": (0.43, 0.44, 0.45),
    "clip_ssl_ae": (0.50, 0.51, 0.52),
}


@pytest.mark.parametrize(
    ("above", "below", "finding"),
    [
        ([0.5, 0.6], [0.3, 0.4], "appeared"),
        ([0.5, 0.3], [0.2, 0.4], "leaning"),
        ([0.3, 0.4], [0.3, 0.4], "absent"),
        ([0.2, 0.4], [0.5, 0.3], "absent"),
        ([0.3, 0.4], [0.5, 0.6], "reversed"),
        ([0.9], [0.1, 0.2], "open"),
        ([0.9, 0.8], [], "open"),
    ],
)
def test_a_claim_is_judged_by_ranges_over_seeds(
    above: list[float], below: list[float], finding: Finding
) -> None:
    assert judge(above, below) == finding


def test_the_summary_names_the_weakest_finding() -> None:
    assert "appeared:" in summary(["appeared", "appeared"])
    assert "this may be chance" in summary(["appeared", "leaning"])
    assert "not appear in full" in summary(["appeared", "leaning", "absent"])
    assert "1 pair(s) are reversed" in summary(["appeared", "absent", "reversed"])
    assert "1 of 3 pairs lack seeds" in summary(["appeared", "open", "reversed"])


def test_nothing_is_claimed_without_results(tmp_path: Path) -> None:
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert text.startswith("# study_objectives: verdict\n\n0 of 20 runs are there. Missing: ae_d4_seed0, ")
    assert "Not to be judged yet" in text and "ordering appeared" not in text


def test_the_verdict_follows_the_records(tmp_path: Path) -> None:
    main_arms(tmp_path, IN_ORDER)
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert "12 of 20 runs are there" in text and text.count("ordering appeared") == 2
    assert "clip_ae_d4 > ae_d4: appeared [0.410 (0.400 to 0.420) against 0.310 (0.300 to 0.320)" in text
    assert "- ssl_ae_d4: 3.50 (3.50 to 3.50)" in text
    main_arms(tmp_path, {"ae": (0.60, 0.61, 0.62)})
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert "did not appear: 2 pair(s) are reversed" in text and "ordering appeared" not in text


def test_records_of_the_samples_are_marked(tmp_path: Path) -> None:
    put(tmp_path, make_arms()[0], 0, {LATENTS: 0.3}, data="samples")
    assert "too few to judge anything" in write_verdict(read_results(make_arms(), tmp_path))


def test_a_record_of_other_settings_is_left_out_and_named(tmp_path: Path) -> None:
    arm = make_arms()[0]
    put(tmp_path, arm, 0, {LATENTS: 0.3})
    path = tmp_path / f"{arm.name}_seed0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": "0" * 16}))
    found = read_results(make_arms(), tmp_path)
    assert found.stale == ["ae_d4_seed0"] and found.values("ae_d4", LATENTS) == []
    assert "other settings and left out: ae_d4_seed0" in found.account()
    result = CliRunner().invoke(main, ["--results", str(tmp_path), "run", "--only", "ae_d4", "--seeds", "0"])
    assert result.exit_code == 1 and "remove it to run again" in result.output


def test_the_table_has_means_ranges_baselines_and_what_is_missing(tmp_path: Path) -> None:
    main_arms(tmp_path, {"ae": (0.30, 0.31, 0.32)})
    columns = (Column("probe", LATENTS), Column("quality", PSNR, 1), Column("generation", "gfd"))
    lines = markdown("study", read_results(make_arms(), tmp_path), columns).splitlines()
    assert "3 of 20 runs are there. Missing: clip_ae_d4_seed0, " in lines[2]
    assert "| arm | setting | runs | probe | quality | TFLOP | CPU min |" in lines
    cells = ["ae_d4", "AE, d = 4", "3/3", "0.310 (0.300 to 0.320)", "21.0 (20.0 to 22.0)", "20000.0"]
    assert f"| {' | '.join(cells)} | 1.5 (1.5 to 1.5) |" in lines
    assert "| lambda_1 | all objectives, d = 4, lambda_rec = 1 | 0/1 | – | – | – | – |" in lines
    assert "| baseline |  |  | 0.250 (raw pixels) | 0.2 (raw pixels) |  |  |" in lines


def test_a_baseline_of_a_tokenizer_s_own_is_a_range(tmp_path: Path) -> None:
    main_arms(tmp_path, {"ae": (0.30, 0.31, 0.32)})
    found = read_results(make_arms(), tmp_path)
    for record, baseline in zip(found.records["ae_d4"], (0.5, 0.7, 0.6), strict=True):
        record["metrics"][LATENTS]["baseline"] = baseline
    assert "| 0.500 to 0.700 (raw pixels) |  |  |" in markdown("study", found, (Column("probe", LATENTS),))


def test_a_plot_is_drawn_of_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    main_arms(tmp_path / "results", IN_ORDER)
    plot("study", read_results(make_arms(), tmp_path / "results"), STUDY.columns, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(main, ["--results", str(tmp_path / "none"), "plot", str(tmp_path / "no.png")])
    assert result.exit_code == 1 and "nothing to draw" in result.output


def test_committed_records_are_current_and_name_no_folder() -> None:
    for path in sorted((STUDY.folder / "results").glob("*.json")):
        text = path.read_text()
        assert '"/' not in text and path.stat().st_size < 10_000, path
    assert read_results(make_arms(), STUDY.folder / "results").stale == []


def test_spread_says_how_many_values_it_has() -> None:
    assert spread([]) == "–" and spread([0.5]) == "0.500" and spread([1.0, 2.0], 1) == "1.5 (1.0 to 2.0)"
