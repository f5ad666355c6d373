"""`vtp probe-gen`: the same numbers again, ranking and curves by hand, records kept, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import CliRunner

from tests.core.evaluation_sets import ArraySource
from vtp_core.cli.main import main
from vtp_core.errors import DataError, NumericError, UsageError
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_plugins.probe_gen.command import read_settings
from vtp_plugins.probe_gen.config import ProbeSettings
from vtp_plugins.probe_gen.latents import Latents
from vtp_plugins.probe_gen.measure import Probe, measure
from vtp_plugins.probe_gen.proxy import MemoryStep, Proxy
from vtp_plugins.probe_gen.ranking import Reached, mean_curve, ranking, reached, speeds
from vtp_plugins.probe_gen.record import Distance, Point, Record, Records
from vtp_plugins.probe_gen.text import as_data, as_text

TINY = ProbeSettings(
    steps=4,
    rows=8,
    images=64,
    samples=64,
    euler_steps=2,
    width=16,
    depth=1,
    heads=2,
    warmup=2,
    network="timm:test_resnet",
    weights="random",
    resize=32,
)


def drawn(count: int = 70) -> EvaluationSet:
    draw = numpy.random.default_rng(0)
    images = draw.integers(0, 256, (count, 32, 32, 3), dtype=numpy.uint8)
    labels = tuple(draw.integers(0, 3, count).tolist())
    return EvaluationSet(name="drawn", source=ArraySource(images, labels=labels, classes=("a", "b", "c")))


def record(*kernels: float, seed: int = 0, frechets: tuple[float, ...] = (), gaussian: float = 2.0) -> Record:
    """A record with these kernel distances after 10, 20, 40, ... steps."""
    return Record(
        fingerprint="f",
        seed=seed,
        protocol="p",
        images="i",
        channels=4,
        positions=16,
        discrete=False,
        parameters=1,
        loss=1.0,
        curve=tuple(
            Point(step=10 * 2**i, epochs=2.0**i, kernel=kernel, frechet=frechets[i] if frechets else None)
            for i, kernel in enumerate(kernels)
        ),
        gaussian=Distance(kernel=gaussian),
        reconstruction=Distance(kernel=0.1),
    )


@pytest.fixture(scope="module")
def measured() -> Record:
    return measure(tiny_tokenizer(), drawn(), TINY, seed=3, curve=True)


def test_a_measurement_repeats_itself_and_its_curve_ends_in_what_it_is_without(measured: Record) -> None:
    again = measure(tiny_tokenizer(), drawn(), TINY, seed=3)
    assert again.curve == measured.curve[-1:]
    assert again.model_dump(exclude={"curve"}) == measured.model_dump(exclude={"curve"})
    assert [point.step for point in measured.curve] == [1, 2, 4]
    assert [point.epochs for point in measured.curve] == [0.125, 0.25, 0.5]
    for setting in ("CHANGED steps=4 rows=8", "3 classes", "PARTIAL 64 of 70", "weights random", "32 px"):
        assert setting in measured.protocol


def test_other_seeds_and_other_tokenizers_give_other_numbers(measured: Record) -> None:
    probe = Probe(drawn(), TINY, torch.device("cpu"))
    seed = probe.subject(tiny_tokenizer()).measure(4)
    assert seed.final.kernel != measured.final.kernel and seed.reconstruction == measured.reconstruction
    other = probe.subject(tiny_tokenizer(seed=1))
    assert other.fingerprint != measured.fingerprint and other.protocol == measured.protocol


@pytest.mark.parametrize("part", ["encoder", "bottleneck", "decoder"])
def test_settings_that_no_weight_shows_make_another_tokenizer(part: str) -> None:
    probe, names = Probe(drawn(), TINY, torch.device("cpu")), []
    for setting in ("a", "b", "b"):
        model = tiny_tokenizer()
        assert model.config is not None
        table = {**(getattr(model.config, part) or {}), "setting": setting}
        model.config = model.config.model_copy(update={part: table, "recipe": setting * len(names)})
        names.append(probe.subject(model).fingerprint)
    assert names[0] != names[1] == names[2]


def test_tokenizers_see_the_same_images_in_the_same_order() -> None:
    numbers = torch.arange(50.0).view(50, 1, 1, 1)
    few = Latents(maps=numbers.expand(50, 2, 3, 3), labels=None, classes=0)
    many = Latents(maps=numbers.expand(50, 7, 2, 2), labels=None, classes=0)
    seen = [
        [MemoryStep(x, 16, 5, i).tokenize("").z[:, 0, 0, 0].tolist() for i in range(20)] for x in (few, many)
    ]
    assert seen[0] == seen[1] and len({tuple(rows) for rows in seen[0]}) == 20
    counts = torch.tensor(seen[0]).flatten().long().bincount(minlength=50)
    assert counts.min() > 0 and counts.max() < 20  # 320 draws of 50


def test_statistics_are_those_of_all_latents() -> None:
    maps = torch.randn(300, 3, 2, 2) * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1) + 4
    proxy = Proxy(Latents(maps=maps, labels=None, classes=0), TINY, 0)
    noise = proxy.gaussian(torch.arange(4000))
    for own, others in ((noise, maps), (proxy.gaussian(torch.arange(3)), noise[:3])):
        torch.testing.assert_close(own.mean((0, 2, 3)), others.mean((0, 2, 3)), atol=0.2, rtol=0.02)
    torch.testing.assert_close(noise.std((0, 2, 3)), maps.std((0, 2, 3)), rtol=0.05, atol=0)


def test_the_ranking_is_by_the_mean_over_seeds_and_errors_are_of_seeds() -> None:
    low, high = [0.9, 1.0, 1.1, 1.05], [1.9, 2.1, 2.0, 1.95]
    found = ranking(
        {
            "b": [record(value, seed=seed) for seed, value in enumerate(high)],
            "a": [record(value, seed=seed) for seed, value in enumerate(low)],
        }
    )
    assert [place.name for place in found] == ["a", "b"]
    first, second = found
    assert first.kernel.value == pytest.approx(numpy.mean(low))
    # Student's interval over its normal one at n = 4 is 3.18 / 1.96; the bootstrap's error is drawn.
    expected = numpy.std(low, ddof=1) / 2 * 3.182 / 1.96
    assert first.kernel.error == pytest.approx(expected, rel=0.1)
    assert (first.verdict, first.beside_first) == ("better", None)
    assert (second.verdict, second.beside_first) == ("within noise", "worse")
    alone = ranking({"a": [record(1.0)]})[0]
    assert alone.kernel.error is None and alone.verdict is None


def test_steps_to_a_level() -> None:
    curve = record(8.0, 4.0, 2.0, frechets=(90.0, 50.0, 30.0)).curve
    assert _steps(curve, 4.0) == pytest.approx(20)
    assert _steps(curve, 3.0) == pytest.approx(20 * math.sqrt(2))
    assert reached(curve, 9.0) == Reached(steps=10, at_most=True) and reached(curve, 1.0) is None
    assert _steps(curve, 70.0, "frechet") == pytest.approx(10 * math.sqrt(2))
    assert reached(record(8.0, 1.0).curve, 1.0, "frechet") is None


def _steps(curve: Sequence[Point], level: float, distance: str = "kernel") -> float:
    found = reached(curve, level, distance)
    assert found is not None and not found.at_most
    return found.steps


def test_speeds_compare_tokenizers_where_all_of_them_get() -> None:
    places = ranking(
        {"slow": [record(8.0, 4.0, 2.0)], "fast": [record(4.0, 2.0, 1.0, frechets=(9.0, 7.0, 5.0))]}
    )
    level, found = speeds(places, 7.0)
    assert level == 2.0
    slow, fast = found["slow"], found["fast"]
    assert (slow.steps.steps, fast.steps.steps) == (pytest.approx(40), pytest.approx(20))
    assert (slow.times_faster, fast.times_faster) == (1.0, pytest.approx(2))
    assert slow.epochs is None and fast.epochs is not None and fast.epochs.steps == pytest.approx(2)
    mean = mean_curve([record(8.0, 4.0), record(4.0, 2.0, 1.0)])
    assert [(point.step, point.kernel) for point in mean] == [(10, 6.0), (20, 3.0)]


def test_a_level_that_the_first_point_has_is_a_bound() -> None:
    fast, slow = record(2.0, 1.0, frechets=(9.0, 8.0)), record(8.0, 4.0, 2.0)
    text = as_text({"fast": [fast], "slow": [slow]}, curve=True, reach=9.5)
    assert "≤ 10 " in text and "≥ 4.00" in text and "≤ 1 epochs" in text
    tokenizers = as_data({"fast": [fast], "slow": [slow]}, curve=True, reach=9.5)["curves"]["tokenizers"]
    bounds = ("steps_at_most", "times_faster_at_least", "epochs_at_most")
    assert all(tokenizers["fast"][name] for name in bounds)
    assert not any(tokenizers["slow"][name] for name in bounds)
    # Where all tokenizers are at the level from their first point on, no ratio is known.
    both = {"one": [record(2.0, 2.0)], "other": [record(1.0, 1.0)]}
    assert all(speed.times_faster is None for speed in speeds(ranking(both))[1].values())
    assert "?" in as_text(both, curve=True)


def test_text_and_json_hold_the_ranking() -> None:
    results = {"one": [record(8.0, 4.0)], "other": [record(4.0, 3.0, frechets=(9.0, 8.0))]}
    text = as_text(results, curve=True, reach=1.0)
    assert text.index("other") < text.index("one ") and "not reached" in text and "one seed" in text
    assert "no Fréchet distance" in text and "no Fréchet" not in as_text({"other": results["other"]})
    data = json.loads(json.dumps(as_data(results, curve=True), allow_nan=False))
    assert [place["tokenizer"] for place in data["ranking"]] == ["other", "one"]
    assert data["curves"]["tokenizers"]["other"]["times_faster"] > 1


def test_records_are_found_again_and_damaged_ones_named(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.find("f", 0, "p", "i", (10,)) is None
    records.write(kept := record(3.0, 2.0))
    assert records.find("f", 0, "p", "i", (10, 20)) == kept
    assert records.find("f", 0, "p", "i", (10, 20, 40)) is None
    for other in (("g", 0, "p", "i"), ("f", 1, "p", "i"), ("f", 0, "q", "i"), ("f", 0, "p", "j")):
        assert records.find(*other, (10,)) is None
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match=r"seed0\.json is not a record of probe-gen .*delete it"):
        records.find("f", 0, "p", "i", (10,))


def test_images_and_labels_are_hashed_but_not_their_place() -> None:
    def hashed(data: EvaluationSet) -> str:
        return Probe(data, TINY, torch.device("cpu")).images(32)

    data = drawn()
    source = data.source
    assert isinstance(source, ArraySource) and source.labels is not None
    pixels, labels = source.images.copy(), list(source.labels)
    assert hashed(data) == hashed(replace(data, name="elsewhere"))
    pixels[3, 5, 7, 1] ^= 1
    labels[3] = (labels[3] + 1) % 3
    changed = (
        ArraySource(pixels, labels=source.labels, classes=source.classes),
        ArraySource(source.images, labels=tuple(labels), classes=source.classes),
    )
    assert len({hashed(data), *(hashed(replace(data, source=each)) for each in changed)}) == 3


def test_settings_of_the_command_line() -> None:
    assert read_settings(()) == ProbeSettings() and ProbeSettings().title == "probe-gen-v1"
    assert read_settings(("steps=7", "lr=0.5")).title == "probe-gen-v1 CHANGED steps=7 lr=0.5"
    assert ProbeSettings().curve_steps() == (62, 125, 250, 500, 1000)
    for wrong, message in (
        ("steps", "KEY=VALUE"),
        ("speed=1", "--set speed: unknown; the settings are steps, rows"),
        ("steps=0", "--set steps: .*greater than 0"),
        ("width=20", r"multiple of 4 \* heads"),
    ):
        with pytest.raises(UsageError, match=message):
            read_settings((wrong,))


def test_what_can_not_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="drawn: 9 images are too few; probe-gen needs 64"):
        Probe(drawn(9), TINY, torch.device("cpu"))
    probe = Probe(drawn(), TINY, torch.device("cpu"))
    tokenizer = tiny_tokenizer()
    tokenizer.bottleneck.get_parameter(next(iter(tokenizer.bottleneck.state_dict()))).fill_(math.nan)
    with pytest.raises(NumericError, match=r"mine: its weight bottleneck.* is not finite"):
        probe.subject(tokenizer, "mine")
    tokenizer = tiny_tokenizer()
    tokenizer.decoder = None
    with pytest.raises(UsageError, match="mine: this tokenizer has no decoder"):
        probe.subject(tokenizer, "mine")


def test_the_command_refuses_before_it_reads_images(tmp_path: Path) -> None:
    for arguments, message in (
        (["vtp-nano"], "does not belong to a run, so its images are unknown; name them with --source"),
        (["vtp-nano", "vtp-nano", "--source", "samples"], "vtp-nano is named twice"),
        (["vtp-nano", "--source", "samples", "--reach", "3"], "--reach needs --curve"),
        (["vtp-nano", "--source", "samples", "-r", "quickstart"], "give one of them"),
    ):
        result = CliRunner().invoke(main, ["probe-gen", *arguments, "-o", str(tmp_path / "o")])
        assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "o").exists()
