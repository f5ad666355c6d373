from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from click.testing import CliRunner

from benchmarks.study.arm import Run
from benchmarks.study.record import write_record
from benchmarks.study.results import read_results
from benchmarks.study_branches.__main__ import main
from benchmarks.study_branches.arms import CHANNELS, CODES, ENCODERS, LEVELS, SETS, make_arms, name_of
from benchmarks.study_branches.config import CellConfig, read_cell
from benchmarks.study_branches.difference import difference
from benchmarks.study_branches.features import Layers, Split
from benchmarks.study_branches.latents import make_latents, principal
from benchmarks.study_branches.measures import DRAWS, Terms, drawn_counts, measure
from benchmarks.study_branches.pictures import colour_shift, fine_energy, to_lab
from benchmarks.study_branches.verdict import write_verdict
from vtp_core.parameters import Dims
from vtp_plugins.vq.build import build_quantizer


def test_lab_has_the_published_values_of_the_primaries() -> None:
    colours = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    found = to_lab(colours.to(torch.uint8).view(5, 3, 1, 1))[..., 0, 0]
    wanted = torch.tensor(
        [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_colour_shift_is_of_means_and_not_of_pixels() -> None:
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert colour_shift(image.flip(-1), image).max() < 1e-9
    gray = torch.full((1, 3, 4, 4), 119, dtype=torch.uint8)
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert colour_shift(gray, white).item() == pytest.approx((100 - 50.03) / 3, abs=0.01)


def test_fine_energy_is_that_of_fine_patterns() -> None:
    places = torch.arange(16)
    board = ((places[:, None] + places) % 2 * 255).to(torch.uint8).expand(1, 3, 16, 16)
    assert fine_energy(board).item() == pytest.approx(256 / 4)  # the mean has as much
    wave = (127.5 + 100 * torch.cos(2 * math.pi * places / 16)).to(torch.uint8).expand(1, 3, 16, 16)
    assert fine_energy(wave).item() < 1e-3
    assert fine_energy(torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)).item() < 1e-9


def test_principal_axes_are_those_of_the_singular_value_decomposition() -> None:
    torch.manual_seed(0)
    train, val = torch.randn(30, 4, 6) * torch.tensor([5.0, 0.1, 3, 1, 0.2, 2]), torch.randn(7, 4, 6)
    rows = train.flatten(0, 1).double()
    axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:3]
    for vectors, found in zip((train, val), principal((train, val), 3), strict=True):
        wanted = (vectors.double() - rows.mean(0)) @ axes.T
        torch.testing.assert_close(found.double().abs(), wanted.abs(), atol=1e-4, rtol=1e-4)
    assert principal((train, val), 6)[0] is train


def test_draws_have_the_standard_error_of_a_mean_and_ratios_are_of_sums() -> None:
    counts = drawn_counts(400)
    assert counts.shape == (DRAWS, 400) and bool((counts.sum(1) == 400).all())
    assert torch.equal(counts, drawn_counts(400))
    torch.manual_seed(0)
    value = torch.randn(400, dtype=torch.float64)
    assert Terms(value).over(counts).std().item() == pytest.approx(value.std().item() / 20, rel=0.25)
    of = torch.rand(400, dtype=torch.float64) + 0.1
    whole = Terms(value, of).over(torch.ones(1, 400, dtype=torch.float64))
    assert whole.item() == pytest.approx((value.sum() / of.sum()).item())


def config_of(of: str, *more: str) -> CellConfig:
    arm = next(arm for arm in make_arms() if arm.name == "nano_cifar.own.deep")
    return read_cell(Run(arm, 0), (f'latent.of="{of}"', "concat.layers=[0]", 'concat.norm="none"', *more))


@pytest.fixture(scope="module")
def separate() -> Layers:
    """An encoder whose deep tokens hold the class alone, and its first block the pixels alone."""
    torch.manual_seed(0)

    def split(count: int) -> Split:
        label = torch.arange(count) % 3
        pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
        patches = torch.nn.functional.unfold(pixels.float() / 255, 4, stride=4).transpose(1, 2)
        deep = torch.nn.functional.one_hot(label, 3)[:, None].float() + 0.3 * torch.randn(count, 4, 3)
        return Split(patches=deep.half(), layers={0: patches.half()}, pixels=pixels, label=label, grid=(2, 2))

    dims = Dims(width=3, patch=4, depth=2, has_cls=False, tap_widths=(48, 3))
    return Layers(train=split(300), val=split(90), dims=dims)


def test_only_both_branches_hold_what_each_holds(separate: Layers) -> None:
    found = {
        of: measure(make_latents(config_of(of), separate, 0), separate, 300)["metrics"]
        for of in ("deep", "shallow", "both")
    }
    value = {of: {name: entry["value"] for name, entry in metrics.items()} for of, metrics in found.items()}
    assert value["deep"]["probe"] > 0.9 and value["deep"]["deep_r2"] > 0.99
    assert abs(value["deep"]["pixel_r2"]) < 0.1 and value["deep"]["texture"] < 0.1
    assert value["shallow"]["pixel_r2"] > 0.99 and value["shallow"]["texture"] == pytest.approx(1, abs=0.05)
    assert abs(value["shallow"]["deep_r2"]) < 0.1 and value["shallow"]["probe"] < 0.5
    both = value["both"]
    assert min(both["probe"], both["deep_r2"], both["pixel_r2"]) > 0.9
    assert both["psnr"] > value["deep"]["psnr"] + 10 and both["channels"] == 51
    for metrics in found.values():
        assert all(each["low"] <= each["value"] <= each["high"] for each in metrics.values() if "low" in each)


@pytest.mark.slow
def test_a_residual_branch_learns_what_deep_tokens_lack(separate: Layers) -> None:
    config = config_of("residual", "residual.steps=120", "residual.width=48", "residual.depth=1")
    latents = make_latents(config, separate, 0)
    value = {name: entry["value"] for name, entry in measure(latents, separate, 300)["metrics"].items()}
    assert value["channels"] == 51 and value["deep_r2"] > 0.99 and value["probe"] > 0.8
    assert value["pixel_r2"] > 0.3  # deep tokens alone: 0


def test_layer_drop_differs_in_training_alone(separate: Layers) -> None:
    taps = {k: torch.randn(300, 4, 3).half() for k in (0, 1)}
    layers = Layers(
        train=dataclasses.replace(separate.train, layers=taps),
        val=dataclasses.replace(separate.val, layers={k: tokens[:90] for k, tokens in taps.items()}),
        dims=dataclasses.replace(separate.dims, tap_widths=(3, 3)),
    )
    plain, dropped = (
        make_latents(config_of("mean", "mean.layers=[0, 1]", f"mean.layer_drop={drop}"), layers, 0)
        for drop in (0.0, 0.5)
    )
    assert not torch.allclose(plain.train, dropped.train)
    both = torch.stack([plain.val.flatten(), dropped.val.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.99


def test_a_codebook_a_branch_takes_the_channels_of_its_branch(separate: Layers) -> None:
    arm = next(arm for arm in make_arms() if arm.name == "nano_cifar.bits.concat_two")
    more = ("concat.layers=[0]", 'concat.norm="none"', "latent.channels=6", "training.steps=3")
    latents = make_latents(read_cell(Run(arm, 0), more), separate, 0)
    halves = latents.val[..., :3], latents.val[..., 3:]
    assert all(len(half.flatten(0, 1).unique(dim=0)) <= 32 for half in halves)
    assert latents.report["bits"] == 10 and 32 < len(latents.val.flatten(0, 1).unique(dim=0)) <= 1024


def test_levels_have_equal_channels_and_equal_bits() -> None:
    for tiny in (False, True):
        for arm in make_arms(tiny):
            assert read_cell(Run(arm, 0)).features.size % 8 == 0
    names = {arm.name for arm in make_arms()}
    for encoder in ENCODERS:
        for images in SETS:
            for kind in ("deep", "shallow", "concat"):
                assert {name_of(encoder, images, level, kind) for level in LEVELS} <= names
    assert "cnn_cifar.own.mean" not in names
    for arm in make_arms():
        latent = read_cell(Run(arm, 0)).latent
        level = arm.name.split(".")[1]
        assert latent.channels == (None if level == "own" else CHANNELS)
        assert (latent.quantizer is not None) == (level == "bits")
        if latent.quantizer is not None:
            assert math.prod(build_quantizer(latent.quantizer, CHANNELS).codebook_sizes) == CODES


def record_of(run: Run, values: numpy.ndarray) -> dict[str, Any]:
    names = ("psnr", "probe", "colour_shift", "texture", "deep_r2", "pixel_r2")
    draws = " ".join(str(each) for each in values)
    return {
        "seed": run.seed, "settings": run.digest(), "data": "samples", "flops": 0.0, "cpu_seconds": 1.0,
        "metrics": {name: {"value": float(values.mean())} for name in names},
        "draws": dict.fromkeys(names, draws),
    }  # fmt: skip


def test_differences_are_paired(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).normal(size=100)
    arms = [arm for arm in make_arms() if arm.name.startswith("nano_cifar.own")]
    for arm in arms:
        better = {"concat": 0.1, "mean": 2.0}.get(arm.name.rsplit(".", 1)[1], 0.0)
        own = numpy.random.default_rng(1).normal(size=100) if "mean" in arm.name else 0
        for seed in arm.seeds:
            run = Run(arm, seed)
            write_record(record_of(run, noise + better + own), tmp_path / f"{run.name}.json")
    found = read_results(make_arms(), tmp_path)
    sure = difference(found, "nano_cifar.own.concat", "nano_cifar.own.deep", "psnr")
    assert sure is not None and sure.value == pytest.approx(0.1) and sure.error < 1e-9 and sure.sure == 1
    open_ = difference(found, "nano_cifar.own.mean", "nano_cifar.own.deep", "psnr")
    assert open_ is not None and open_.error == pytest.approx(1, rel=0.2)
    assert difference(found, "cnn_cifar.own.concat", "cnn_cifar.own.deep", "psnr") is None
    text = write_verdict(found)
    assert "| both branches decode better than deep alone | psnr | nano | cifar | yes | +0.10 (" in text
    assert "| both branches decode better than deep alone | psnr | cnn | cifar | – | – |" in text


@pytest.mark.slow
def test_tiny_cells_are_measured_told_and_drawn(tmp_path: Path) -> None:
    results = ["--tiny", "--results", str(tmp_path / "results")]
    made = CliRunner().invoke(main, [*results, "run", "--work", str(tmp_path / "work")])
    assert made.exit_code == 0 and "all chosen runs are there" in made.output, made.output
    assert len(list((tmp_path / "results").iterdir())) == len(make_arms(True))
    again = CliRunner().invoke(main, [*results, "run", "--work", str(tmp_path / "work")])
    assert "CPU time" not in again.output and again.exit_code == 0
    table = CliRunner().invoke(main, [*results, "table"])
    assert "| nano_drawings.bits.concat_two | deep beside shallow, 32 x 32 codes | 1/1 | 32 |" in table.output
    assert (
        "All records are of the package's drawings" in CliRunner().invoke(main, [*results, "verdict"]).output
    )
    drawn = CliRunner().invoke(main, [*results, "plot", str(tmp_path / "plot.svg")])
    assert drawn.exit_code == 0 and (tmp_path / "plot.svg").stat().st_size > 10_000
