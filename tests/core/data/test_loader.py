"""The loader: pure functions of (seed, step, global row), whatever workers, world size and start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.data.making import DrawnSource, noise
from vtp_core.batch import Batch
from vtp_core.data.crops.geometry import center_crop
from vtp_core.data.loading.loader import Loader
from vtp_core.data.loading.quarantine import BadRead, Quarantine
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import CheckpointError, DataError, UsageError
from vtp_core.recipe.tables.views import CropConfig, MaskConfig, ViewConfig
from vtp_core.view import ViewNeed

VIEWS = {
    "clip": ViewConfig(rows=16, size=16, augment="clip"),
    "ssl": ViewConfig(
        rows=8,
        size=16,
        augment="dino",
        crops={"global": CropConfig(count=2), "local": CropConfig(count=3, size=8)},
        masks=MaskConfig(),
    ),
    "rec": ViewConfig(rows=4, size=16, augment="center"),
}
NEEDS = {
    "clip": ViewNeed(text=True),
    "ssl": ViewNeed(crops=("global", "local"), masked=True),
    "rec": ViewNeed(label=True),
}


def load(source: object = None, **options: object) -> list[tuple[int, dict[str, Batch]]]:
    settings: dict[str, object] = {"seed": 5, "steps": 4, "patch": 4, "max_bad_fraction": 1.0} | options
    views = settings.pop("views", VIEWS)
    needs = settings.pop("needs", NEEDS)
    sources = {"default": DrawnSource() if source is None else source}
    return list(Loader(views, needs, sources, **settings))  # type: ignore[arg-type]


def assert_same(a: Batch, b: Batch) -> None:
    assert a.keys == b.keys and a.text == b.text and a.rows == b.rows
    assert a.crops.keys() == b.crops.keys()
    for name in a.crops:
        assert torch.equal(a.crops[name], b.crops[name]), name
    assert (a.label is None) == (b.label is None) and (a.masks is None) == (b.masks is None)
    if a.label is not None and b.label is not None:
        assert torch.equal(a.label, b.label)
    if a.masks is not None and b.masks is not None:
        assert torch.equal(a.masks.mask, b.masks.mask) and torch.equal(a.masks.weight, b.masks.weight)


def test_batches_have_what_was_asked_for() -> None:
    steps = load()
    assert [step for step, _ in steps] == [0, 1, 2, 3]
    batch = steps[0][1]
    assert batch["clip"].crops["global"].shape == (16, 1, 3, 16, 16)
    assert batch["ssl"].crops["global"].shape == (8, 2, 3, 16, 16)
    assert batch["ssl"].crops["local"].shape == (8, 3, 3, 8, 8)
    assert all(crop.dtype == torch.uint8 for view in batch.values() for crop in view.crops.values())
    masks = batch["ssl"].masks
    assert masks is not None and masks.mask.shape == masks.weight.shape == (8, 2, 16)
    assert batch["clip"].masks is None and batch["clip"].label is None and batch["rec"].text is None
    for batches in batch.values():
        for row, key in enumerate(batches.keys):
            if batches.text is not None:
                assert batches.text[row] == f"caption {key[1:]}"
            if batches.label is not None:
                assert batches.label[row] == int(key[1:]) % 2


def test_pixels_are_the_samples_own() -> None:
    batch = load()[1][1]["rec"]
    for row, key in enumerate(batch.keys):
        assert torch.equal(batch.image[row], center_crop(noise(24, 24, int(key[1:])), 16))


def test_views_of_a_source_read_the_same_samples_and_the_stream_goes_on() -> None:
    steps = load(steps=3)
    for _, batch in steps:
        assert batch["clip"].keys[:8] == batch["ssl"].keys
        assert batch["clip"].keys[:4] == batch["rec"].keys
    seen = [key for _, batch in steps for key in batch["clip"].keys]
    assert len(set(seen)) == 48  # 50 samples, 48 read: none twice within the epoch


@pytest.mark.parametrize("world_size", [2, 4])
def test_world_sizes_see_the_same_global_rows(world_size: int) -> None:
    source = DrawnSource(bad={index: "made so" for index in range(0, 50, 7)})
    whole = load(source)
    for rank in range(world_size):
        for (step, mine), (_, all_rows) in zip(
            load(source, rank=rank, world_size=world_size), whole, strict=True
        ):
            for name, batch in mine.items():
                other = all_rows[name]
                assert batch.rows == other.rows == VIEWS[name].rows
                assert batch.keys == other.keys[rank::world_size], (step, name)
                for crops, pixels in batch.crops.items():
                    assert torch.equal(pixels, other.crops[crops][rank::world_size])
                if batch.masks is not None and other.masks is not None:
                    assert torch.equal(batch.masks.mask, other.masks.mask[rank::world_size])
                    assert torch.equal(batch.masks.weight, other.masks.weight[rank::world_size])


def test_workers_change_nothing() -> None:
    source = DrawnSource(bad={3: "made so", 11: "made so"})
    for (step, alone), (same, helped) in zip(load(source), load(source, workers=2), strict=True):
        assert step == same
        for name in VIEWS:
            assert_same(alone[name], helped[name])


def test_a_later_start_continues_the_same_run() -> None:
    whole = load(steps=5)
    resumed = load(start_step=3, steps=5)
    assert [step for step, _ in resumed] == [3, 4]
    for (_, a), (_, b) in zip(whole[3:], resumed, strict=True):
        for name in VIEWS:
            assert_same(a[name], b[name])


def test_leaving_out_a_view_or_a_crop_set_changes_no_other_number() -> None:
    whole = load()
    fewer = load(needs={"ssl": ViewNeed(crops=("local",))})
    for (_, a), (_, b) in zip(whole, fewer, strict=True):
        assert set(b) == {"ssl"} and set(b["ssl"].crops) == {"local"}
        assert torch.equal(a["ssl"].crops["local"], b["ssl"].crops["local"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_sub_batch_is_chosen_before_decoding(world_size: int) -> None:
    class Counting(DrawnSource):
        decoded = 0

        def read(self, index: int, fields: frozenset[str]) -> Sample:
            Counting.decoded += "image" in fields
            return super().read(index, fields)

    needs = {"clip": ViewNeed(rows=4), "ssl": ViewNeed(crops=("global",), rows=2, masked=True)}
    for rank in range(world_size):
        part = load(Counting(), needs=needs, steps=2, rank=rank, world_size=world_size)
        whole = load(steps=2, rank=rank, world_size=world_size)
        for (_, a), (_, b) in zip(part, whole, strict=True):
            first = b["clip"].first(4, world_size)
            assert a["clip"].keys == first.keys and torch.equal(a["clip"].image, first.image)
            masks, expected = a["ssl"].masks, b["ssl"].first(2, world_size).masks
            assert masks is not None and expected is not None and torch.equal(masks.mask, expected.mask)
    assert Counting.decoded == 8


@given(
    bad=st.sets(st.integers(0, 29), max_size=20),
    world_size=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_bad_samples_are_replaced_the_same_way_everywhere(bad: set[int], world_size: int, seed: int) -> None:
    source = DrawnSource(count=30, bad=dict.fromkeys(bad, "made so"), side=8)
    views = {"v": ViewConfig(rows=8, size=8, augment="none")}
    options = {"views": views, "needs": {"v": ViewNeed()}, "seed": seed, "steps": 3}
    whole = load(source, **options)
    rows = {step: batch["v"].keys for step, batch in whole}
    assert all(int(key[1:]) not in bad for keys in rows.values() for key in keys)
    for rank in range(world_size):
        for step, batch in load(source, **options, rank=rank, world_size=world_size):
            assert batch["v"].keys == rows[step][rank::world_size]


def test_a_missing_caption_matters_only_where_one_is_needed() -> None:
    source = DrawnSource(uncaptioned=frozenset(range(0, 50, 2)))
    views = {
        "clip": VIEWS["clip"].model_copy(update={"rows": 4}),
        "rec": VIEWS["rec"].model_copy(update={"rows": 16}),
    }
    loader = Loader(
        views, {"clip": ViewNeed(text=True), "rec": ViewNeed()}, {"default": source},
        seed=0, steps=3, patch=4, max_bad_fraction=1.0,
    )  # fmt: skip
    for _, batch in loader:
        captioned = [int(key[1:]) % 2 for key in batch["rec"].keys]
        assert all(captioned[:4]) and not all(captioned[4:])
        assert batch["clip"].keys == batch["rec"].keys[:4]
    assert set(loader.quarantine.reasons) == {"no caption"}


def test_sources_have_streams_of_their_own() -> None:
    views = {
        "a": ViewConfig(rows=8, size=8, augment="none"),
        "b": ViewConfig(rows=4, size=8, augment="none", source="other"),
    }
    sources = {"default": DrawnSource(), "other": DrawnSource()}
    loader = Loader(views, {"a": ViewNeed(), "b": ViewNeed()}, sources, seed=0, steps=12, patch=4)
    other = [key for _, batch in loader for key in batch["b"].keys]
    assert len(set(other)) == 48  # advances by its own 4 rows
    assert other[:4] != list(next(iter(loader))[1]["a"].keys[:4])


def test_pixels_are_pinned_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Size] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda pixels: pinned.append(pixels.shape) or pixels)
    item = Loader(VIEWS, NEEDS, {"default": DrawnSource()}, seed=0, steps=1, patch=4)._loader.dataset[0]
    assert item.pin_memory() is item
    assert sorted(pinned) == [(4, 1, 3, 16, 16), (8, 2, 3, 16, 16), (8, 3, 3, 8, 8), (16, 1, 3, 16, 16)]


def test_fewer_samples_than_rows_still_gives_every_step() -> None:
    steps = load(DrawnSource(count=3), world_size=4, rank=3)
    assert len(steps) == 4 and all(len(batch["clip"]) == 4 for _, batch in steps)


def test_cached_latents_do_where_an_objective_says_so() -> None:
    class Cached(DrawnSource):
        def read(self, index: int, fields: frozenset[str]) -> Sample:
            assert "image" not in fields
            latent = torch.full((2, 4, 4), float(index)).numpy()
            return Sample(key=f"s{index}", latent=latent, label=index % 2)

    source = Cached(fields=frozenset({"latent", "label"}))
    needs = {"rec": ViewNeed(latent=True, label=True)}
    for _, batch in load(source, needs=needs, views={"rec": VIEWS["rec"]}):
        assert batch["rec"].crops == {} and batch["rec"].latent is not None
        assert batch["rec"].latent[:, 0, 0, 0].tolist() == [float(key[1:]) for key in batch["rec"].keys]


def test_missing_field_and_empty_source_are_named_before_the_first_step() -> None:
    with pytest.raises(DataError, match=r"views\.clip needs text, but source default has only image"):
        load(DrawnSource(fields=frozenset({"image"})))
    with pytest.raises(DataError, match="has no samples"):
        load(DrawnSource(count=0))
    with pytest.raises(UsageError, match="16 rows are not divisible by 3 ranks"):
        load(world_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_only_bad_samples_stop_with_the_reasons(workers: int) -> None:
    source = DrawnSource(count=10, bad=dict.fromkeys(range(10), "truncated image"))
    with pytest.raises(
        DataError, match=r"step 0: .*20 samples in a row are bad \(truncated image: 20\)"
    ) as error:
        load(source, workers=workers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_counted_and_written_once(tmp_path: Path, workers: int) -> None:
    source = DrawnSource(count=20, bad={4: "truncated image", 7: "too small"})
    path = tmp_path / "run" / "quarantine.jsonl"
    loader = Loader(
        VIEWS, NEEDS, {"default": source},
        seed=0, steps=10, patch=4, workers=workers, max_bad_fraction=0.5, quarantine=path,
    )  # fmt: skip
    assert len(list(loader)) == 10
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(line["key"], line["reason"]) for line in lines} == {
        ("s4", "truncated image"),
        ("s7", "too small"),
    }
    assert len(lines) == 2
    assert lines[0].keys() == {"step", "row", "source", "index", "key", "reason", "detail"}
    assert sum(loader.quarantine.reasons.values()) >= 14
    assert loader.quarantine.seen == 160 + sum(loader.quarantine.reasons.values())


def test_too_many_bad_samples_stop_the_run() -> None:
    source = DrawnSource(count=100, bad=dict.fromkeys(range(30), "truncated image"))
    with pytest.raises(
        DataError, match=r"samples are bad \(truncated image: \d+\).*max_bad_fraction = 0\.01"
    ):
        load(source, steps=100, max_bad_fraction=0.01)


def bad_read(index: int) -> BadRead:
    return BadRead(step=0, row=0, source="default", index=index, key=f"s{index}", reason="r", detail="")


def test_few_bad_samples_of_a_small_set_do_not_stop() -> None:
    quarantine = Quarantine(0.01)
    quarantine.add(10, [bad_read(index) for index in range(10)])
    with pytest.raises(DataError):
        quarantine.add(0, [bad_read(index) for index in range(10, 12)])


def test_a_line_that_a_kill_cut_takes_no_other_with_it(tmp_path) -> None:
    path = tmp_path / "quarantine-0.jsonl"
    path.write_text('{"step": 3, "ro')
    for index in (1, 2):
        Quarantine(0.01, path).add(1000, [bad_read(index)])
    cut, *whole = path.read_text().splitlines()
    assert cut == '{"step": 3, "ro' and [json.loads(line)["index"] for line in whole] == [1, 2]


def test_zero_allows_none() -> None:
    with pytest.raises(DataError):
        Quarantine(0.0).add(1000, [bad_read(0)])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_restart_goes_on_counting_bad_samples(ranks: int) -> None:
    before = [Quarantine(0.5) for _ in range(2)]
    before[0].add(30, [bad_read(index) for index in range(5)])
    before[1].add(40, [bad_read(9)])
    states = json.loads(json.dumps([quarantine.state() for quarantine in before]))
    after = [Quarantine(0.5) for _ in range(ranks)]
    for rank, quarantine in enumerate(after):
        quarantine.resume(states, rank, ranks)
    windows = [quarantine.state()["window"] for quarantine in after]
    assert [sum(column) for column in zip(*windows, strict=True)] == [76, 6]
    if ranks == 2:
        assert [quarantine.state() for quarantine in after] == states
    else:
        assert max(bad for _, bad in windows) - min(bad for _, bad in windows) <= 1
        assert all(quarantine.reasons == {"r": 6} for quarantine in after)


@pytest.mark.parametrize(
    "states", [[], {}, [{}], "x", [{"window": [1], "reasons": {}}], [{"window": [1, -1], "reasons": {}}],
               [{"window": [1, True], "reasons": {}}], [{"window": [1, 1], "reasons": {"x": "y"}}]]
)  # fmt: skip
def test_counts_that_are_none_are_refused(states: object) -> None:
    quarantine = Quarantine(0.5)
    with pytest.raises(CheckpointError, match="no counts of bad samples"):
        quarantine.resume(states, 0, 1)
    quarantine.resume(None, 0, 1)  # of an earlier version
    assert quarantine.state() == {"window": [0, 0], "reasons": {}}


def test_a_shard_gone_bad_late_shows() -> None:
    quarantine = Quarantine(0.01)
    for _ in range(1000):
        quarantine.add(1000, [])
    with pytest.raises(DataError):
        for step in range(20):
            quarantine.add(90, [bad_read(step * 10 + row) for row in range(10)])


def test_loading_draws_nothing_from_global_generators() -> None:
    import random

    import numpy

    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    load(DrawnSource(bad={1: "made so"}), steps=2)
    assert random.getstate() == before[0]
    assert numpy.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_bad_sample_says_key_and_reason() -> None:
    assert str(BadSample("k", "too small", "1x1")) == "k: too small (1x1)"
