"""`vtp codebook predict`: forecasts against codebooks that were trained, advice, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vtp_core.cli.main import main
from vtp_core.errors import DataError
from vtp_plugins.codebook.forecast import METRICS, Forecast, advice, ever_used, forecast


def clustered(noise: float, count: int = 6000, width: int = 96) -> torch.Tensor:
    """Signal of 8 axes in 200 clusters, under isotropic noise; one vector an image."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(200, 8, generator=draw) * (1 / torch.arange(1.0, 9)).sqrt()
    rotation = torch.linalg.qr(torch.randn(width, width, generator=draw))[0][:8]
    chosen = centers[torch.randint(200, (count,), generator=draw)]
    return (chosen @ rotation + noise * torch.randn(count, width, generator=draw))[:, None]


def test_noise_costs_a_plain_codebook_its_use_and_spreads_distances_less() -> None:
    quiet, loud = (forecast(clustered(noise), 64, "plain", bare=True) for noise in (0.02, 0.3))
    assert quiet.use > 0.85
    assert loud.use < quiet.use - 0.2
    assert loud.d_eff > 2 * quiet.d_eff
    assert loud.measured_spread == pytest.approx(loud.spread, rel=0.25)
    dominant = forecast(clustered(0.3), 64, "reweight 1", bare=True)
    assert dominant.use > loud.use
    helped = forecast(clustered(0.3), 64, "plain")
    assert helped.use > loud.use + 0.1 and helped.error < loud.error


def test_codes_that_only_the_images_they_came_from_choose_are_not_in_use() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(128, 1, 64, generator=draw) + 0.05 * torch.randn(128, 32, 64, generator=draw)
    shuffled = images.flatten(0, 1)[torch.randperm(128 * 32, generator=draw)].unflatten(0, (128, 32))
    apart, alike = (forecast(x, 128, "plain", bare=True) for x in (shuffled, images))
    assert apart.use > alike.use + 0.3


def test_codes_ever_used_are_found_from_few_vectors() -> None:
    draw = torch.Generator().manual_seed(0)
    share = torch.cat([torch.rand(700, generator=draw) + 0.2, torch.zeros(300)])
    chosen = share.multinomial(2000, replacement=True, generator=draw)
    counts = chosen.bincount(minlength=1000)
    assert (counts > 0).sum() < 640
    assert ever_used(counts) == pytest.approx(700, abs=30)
    assert ever_used(torch.tensor([3, 0, 0])) == 1 and ever_used(torch.ones(9)) == 9


def test_a_forecast_repeats_itself() -> None:
    x = clustered(0.1, 2000)
    assert forecast(x, 32, "dsq 90 %") == forecast(x, 32, "dsq 90 %")


def test_advice_follows_the_figures() -> None:
    base = {"axes": 9, "d_eff": 9.0, "spread": 0.5, "measured_spread": 0.5, "perplexity": 9.0}

    def make(metric: str, use: float, error: float, bare: bool = False) -> Forecast:
        return Forecast(metric=metric, bare=bare, use=use, error=error, above_bound_db=1.0, **base)

    bare = make("plain", 0.2, 0.7, bare=True)
    fine = [bare, make("plain", 0.95, 0.3), make("reweight 1", 0.99, 0.4), make("dsq 90 %", 0.99, 0.31)]
    assert "uses 95 % of 64 codes (20 % without): bottleneck vq will do" in advice(fine, 64)
    poor = [bare, make("plain", 0.3, 0.6), make("reweight 1", 0.95, 0.5), make("dsq 90 %", 0.97, 0.4)]
    assert 'axes = { mode = "dsq", variance = 0.9 } uses 97 %' in advice(poor, 64)
    worse = [bare, make("plain", 0.7, 0.3), make("reweight 1", 0.99, 0.5), make("dsq 90 %", 0.9, 0.31)]
    assert "fewer codes" in advice(worse, 64)
    none = [bare, make("plain", 0.2, 0.6), make("reweight 1", 0.3, 0.5), make("dsq 90 %", 0.3, 0.4)]
    assert "fewer codes" in advice(none, 64)


@pytest.mark.parametrize("features", ["cifar", "clipart", "own"])
@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_advice_is_what_the_study_found(features: str, scale: float) -> None:
    """With k-means++ and revival no axes gave a smaller error; also where all codes are used less."""
    results = Path("benchmarks/study_pca_vq/results")
    found = []
    for metric, arm in zip(METRICS, ("plain", "reweight_1", "dsq_90"), strict=True):
        record = json.loads((results / f"{features}.{arm}.kmeans.revive_seed0.json").read_text())["metrics"]
        values = {key: record[key]["value"] for key in ("d_eff", "spread", "measured_spread", "perplexity")}
        found.append(
            Forecast(
                metric=metric,
                bare=False,
                axes=int(record["axes"]["value"]),
                use=scale * record["use"]["value"] if metric == "plain" else record["use"]["value"],
                error=record["error"]["value"],
                above_bound_db=record["above_bound_db"]["value"],
                **values,
            )
        )
    assert ("bottleneck vq will do" if scale == 1 else "take fewer codes") in advice(found, 1024)


@pytest.mark.parametrize(("images", "each", "least"), [(1, 32, 2), (3, 2, 4), (7, 1, 8)])
def test_too_few_images_are_named(images: int, each: int, least: int) -> None:
    x = torch.randn(max(images, least), each, 8)
    message = f"^{images} images with {each} vectors each .* read at least {least}$"
    with pytest.raises(DataError, match=message):
        forecast(x[:images], 4, "plain")
    found = forecast(x[:least], 4, "plain")
    assert all(math.isfinite(value) for value in asdict(found).values() if isinstance(value, float))


def test_held_out_images_that_are_all_alike_give_finite_figures() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 4, generator=draw)
    for flat in (0, 1):
        one = x.clone()
        one[flat] = one[flat, :1]
        try:
            found = forecast(one, 4, "plain")
        except DataError as error:  # that image was the one to train on
            assert "all vectors are equal" in str(error)
        else:
            assert math.isfinite(found.measured_spread) and math.isfinite(found.above_bound_db)


def test_the_command_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_plugins.codebook.forecast.STEPS", 4)
    options = ["codebook", "predict", "vtp-nano", "--source", "samples", "--codes", "16"]
    options += ["--images", "24", "--tokens", "8"]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("192 vectors of width ")
    assert [line.split()[0] for line in lines[1:6]] == ["metric", "plain,", "plain", "reweight", "dsq"]
    found = json.loads(CliRunner().invoke(main, [*options, "--json", "--layer", "1"]).stdout)
    assert found["vectors"] == 192
    assert [each["metric"] for each in found["forecasts"]] == ["plain", "plain", "reweight 1", "dsq 90 %"]
    assert [each["bare"] for each in found["forecasts"]] == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["vtp-nano"], "which images? name them with --source"),
        (["vtp-nano", "--source", "samples", "--layer", "99", "--images", "4"], "--layer taps block 99"),
        (["nothing-here"], "nothing-here"),
    ],
)
def test_refusals_are_one_line(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["codebook", "predict", *options])
    assert result.exit_code in (2, 5)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
