"""The runner: splits, ranks, protocols, refusals; latent statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.cli.results import results_table
from vtp_core.config import ComponentConfig
from vtp_core.errors import DataError, NumericError, UsageError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.opening import set_name
from vtp_core.evaluation.protocol import EvaluationProtocol, Metric, Score
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet, Subset
from vtp_core.features import Tally
from vtp_core.run.records import RunFolder
from vtp_plugins.image_folder.config import ImageFolderConfig


class Count(Evaluator):
    """Counts images and remembers what it saw."""

    def __init__(self, *, uses_train: bool = False, value: float = 1.0) -> None:
        super().__init__(ComponentConfig(use="count"))
        self.uses_train = uses_train  # type: ignore[misc]
        self.value = value
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    protocol = "count-v1"

    def update(self, seen: Observation) -> None:
        assert not seen.model.training and not torch.is_grad_enabled()
        self.seen.append((seen.split, seen.batch.keys))

    def state(self) -> Tally:
        return Tally(sums={"n": torch.tensor(float(sum(len(keys) for _, keys in self.seen)))})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        return {"images": Score(value=state.sums["n"].item() * self.value)}


def test_every_sample_once_and_only_the_splits_asked_for() -> None:
    plain, trained = Count(), Count(uses_train=True)
    results = evaluate(
        toy_tokenizer(text=False),
        {"plain": plain, "trained": trained},
        drawn_set("val", 7, 0),
        drawn_set("train", 5, 1),
        rows=3,
    )
    assert [keys for _, keys in plain.seen] == [("s0", "s1", "s2"), ("s3", "s4", "s5"), ("s6",)]
    assert [split for split, _ in trained.seen] == ["train"] * 2 + ["held_out"] * 3
    assert results["images"]["value"] == 7 and results["trained.images"]["value"] == 12
    assert results["images"]["protocol"] == "count-v1; centre-crop-v1 16 px; on val, all 7; student weights"
    assert "fitted on train, all 5" in str(results["trained.images"]["protocol"])
    assert list(results["images"])[:3] == ["value", "protocol", "baseline"]


def test_an_optional_field_is_read_where_a_set_has_it() -> None:
    class Labels(Count):
        optional_fields = frozenset({"label"})

        def update(self, seen: Observation) -> None:
            super().update(seen)
            labels.append(seen.batch.label is not None)

    labels: list[bool] = []
    whole = drawn_set("val", 3, 0)
    bare = replace(whole, source=replace(whole.source, labels=None))
    for data in (whole, bare):
        evaluate(toy_tokenizer(text=False), {"it": Labels()}, data)
    assert labels == [True, False]


class Described(Count):
    """The same number, described."""

    metrics = {
        "images": Metric(title="Images", unit="n", higher_is_better=False, digits=0, baseline_name="none")
    }


def test_a_metric_is_shown_as_its_evaluator_says_or_under_its_own_name() -> None:
    class Two(Described):
        def compute(self, state: Tally) -> Mapping[str, Score]:
            return {**super().compute(state), "not_described": Score(value=0.123456, also={"x": 1.0})}

    results = evaluate(toy_tokenizer(text=False), {"e": Two()}, drawn_set("val", 7, 0))
    del results["images"]["protocol"], results["not_described"]["protocol"]
    alone = {"baseline": None, "baselines": {}, "verdict": None, "error": None, "interval": None, "notes": [],
             "beside": []}  # fmt: skip
    assert results["images"] == {
        **alone, "value": 7.0, "baseline_name": "none", "title": "Images", "unit": "n",
        "higher_is_better": False, "digits": 0, "also": {}, "evaluator": "e",
        "aspect": "understanding",
    }  # fmt: skip
    assert results["not_described"] == {
        **alone, "value": 0.123456, "baseline_name": "", "title": "not described", "unit": "",
        "higher_is_better": True, "digits": None, "also": {"x": 1.0}, "evaluator": "e",
        "aspect": "understanding",
    }  # fmt: skip


def test_the_table_of_results() -> None:
    results = evaluate(toy_tokenizer(text=False), {"e": Described(value=1.5)}, drawn_set("val", 7, 0))
    other = {"title": "Other", "digits": None, "baseline": 0.5, "unit": "", "verdict": "worse"}
    results["other"] = {**results["images"], **other, "interval": [9, 12.25], "notes": ["a reason"]}
    assert results_table(results).splitlines() == [
        "metric  title   value  95 %        better  baseline           protocol",
        "images  Images  10 n   -           lower   -           -      count-v1",
        "other   Other   10.5   9 to 12.25  lower   0.5 (none)  worse  count-v1",
        "note: Other: a reason",
    ]
    results["other"] |= {"also": {"seen": 12.3456, "more": 1.0}, "beside": ["seen"]}
    assert results_table(results).splitlines()[:3] == [
        "metric  title   value  95 %        also        better  baseline           protocol",
        "images  Images  10 n   -           -           lower   -           -      count-v1",
        "other   Other   10.5   9 to 12.25  seen 12.35  lower   0.5 (none)  worse  count-v1",
    ]


def test_the_train_set_is_not_read_for_nothing() -> None:
    class Broken(ArraySet):
        def batches(self, size: int, rows: int, rank: int = 0, world_size: int = 1, fields=frozenset()):  # type: ignore[no-untyped-def]
            raise AssertionError("read")

    train = Broken(name="train", source=drawn_set("x", 3, 0).source)
    evaluate(toy_tokenizer(), {"plain": Count()}, drawn_set("val", 3, 0), train)


def test_partial_sets_are_named_so() -> None:
    held_out = drawn_set("val", 20, 0)
    held_out = ArraySet(name="val", source=held_out.source, limit=6)
    counter = Count()
    results = evaluate(toy_tokenizer(), {"c": counter}, held_out)
    assert "PARTIAL 6 of 20" in str(results["images"]["protocol"])
    assert counter.seen[0][1] == ("s0", "s3", "s6", "s10", "s13", "s16")


def test_an_unusable_set_is_refused() -> None:
    empty = ArraySet(name="val", source=drawn_set("val", 3, 0).source, limit=0)
    with pytest.raises(DataError, match="val: no usable sample"):
        evaluate(toy_tokenizer(), {"c": Count()}, empty)


def test_what_is_lacking_is_named_before_anything_runs() -> None:
    counter = Count()

    class NeedsText(Count):
        requires = frozenset({"encode", "embed_text"})
        fields = frozenset({"text"})

    data = drawn_set("val", 3, 0)
    with pytest.raises(UsageError, match=r"evaluator b: the tokenizer has no embed_text [(]no text tower"):
        evaluate(toy_tokenizer(text=False), {"a": counter, "b": NeedsText()}, data)
    assert not counter.seen
    assert isinstance(data.source, ArraySource)
    mute = ArraySet(name="mute", source=ArraySource(images=data.source.images))
    with pytest.raises(UsageError, match="mute has no text"):
        evaluate(toy_tokenizer(), {"b": NeedsText()}, mute)
    with pytest.raises(UsageError, match="needs a training set"):
        evaluate(toy_tokenizer(), {"b": Count(uses_train=True)}, data)


def test_a_set_with_too_few_samples_is_refused_before_anything_runs() -> None:
    class Many(Count):
        least_samples = 5

    many = Many()
    with pytest.raises(UsageError, match="evaluator m: it needs 5 samples, and val has 4; leave it out"):
        evaluate(toy_tokenizer(), {"m": many}, drawn_set("val", 4, 0))
    assert not many.seen
    evaluate(toy_tokenizer(), {"m": many}, drawn_set("val", 5, 0))


def test_the_model_comes_back_as_it_was() -> None:
    model = toy_tokenizer()
    model.train()
    model.decoder.eval()
    before = {name: module.training for name, module in model.named_modules()}
    evaluate(model, {"c": Count()}, drawn_set("val", 3, 0))
    assert before == {name: module.training for name, module in model.named_modules()}


def test_not_a_number_is_refused() -> None:
    with pytest.raises(NumericError, match="images is nan"):
        evaluate(toy_tokenizer(), {"c": Count(value=float("nan"))}, drawn_set("val", 3, 0))


def test_one_forward_serves_all_evaluators() -> None:
    model = toy_tokenizer()
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))

    class Reads(Count):
        def update(self, seen: Observation) -> None:
            super().update(seen)
            assert seen.reconstruction.shape == seen.image.shape
            assert seen.image_embedding.shape[1] == 5
            assert seen.encoded.latent.shape[1] == 48

    evaluate(model, {"a": Reads(), "b": Reads()}, drawn_set("val", 4, 0), rows=2)
    assert len(calls) == 2


def test_subsets_and_shares_are_disjoint_and_whole() -> None:
    data = drawn_set("val", 11, 0)
    keys = [key for rank in range(4) for batch in data.batches(16, 2, rank, 4) for key in batch.keys]
    assert sorted(keys) == sorted(f"s{i}" for i in range(11))
    subset = Subset(data.source, [4, 2])
    assert len(subset) == 2 and subset.read(1, subset.fields).key == "s2"


def test_results_file(tmp_path: Path) -> None:
    results = evaluate(toy_tokenizer(), {"c": Count()}, drawn_set("val", 3, 0))
    RunFolder(tmp_path).write_evaluation(7, results, {})
    assert json.loads((tmp_path / "eval.json").read_text()) == results
    assert RunFolder(tmp_path).read_metrics() == [{"step": 7, "eval/images": 3.0}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.json", "metrics.jsonl"]


def test_latent_statistics_are_numpys() -> None:
    data = drawn_set("train", 9, 0)
    model = toy_tokenizer()
    config = measure_latents(model, data, rows=4)
    latents = torch.cat([model.encode(b.to(model.device).image).latent for b in data.batches(16, 9)])
    flat = latents.detach().transpose(0, 1).flatten(1).double().numpy()
    assert config.latents_mean == pytest.approx(flat.mean(1), abs=1e-5)
    assert config.latents_std == pytest.approx(flat.std(1), rel=1e-5)
    assert "train, all 9" in str(config.latents_stats_protocol)
    model.config = config
    normal = torch.cat([model.encode_normalized(b.to(model.device).image) for b in data.batches(16, 9)])
    assert abs(normal.mean().item()) < 1e-4 and normal.std().item() == pytest.approx(1, abs=0.01)


def test_the_loader_feeds_an_evaluation() -> None:
    drawn = drawn_set("val", 5, 0, size=20)
    data = EvaluationSet(name="val", source=drawn.source)
    counter = Count()
    evaluate(toy_tokenizer(), {"c": counter}, data, rows=2)
    assert [key for _, keys in counter.seen for key in keys] == [f"s{i}" for i in range(5)]


def test_what_could_not_be_computed_is_null_in_the_file() -> None:
    score = Score(
        value=1.0, error=float("nan"), interval=(0.0, float("inf")), also={"x": float("nan"), "y": 2.0}
    )
    entry = score.entry(Metric(title="t"), EvaluationProtocol(name="p-v1", image_size=8))
    written = json.loads(json.dumps(entry, allow_nan=False))
    assert (written["error"], written["interval"], written["also"]) == (None, None, {"y": 2.0})


def test_a_source_is_named_without_its_location_and_with_whole_names_of_excluded_samples():
    table = ImageFolderConfig(path="/data/photos/", exclude=("a/1.png", "b/1.png"))
    assert set_name(table) == "image_folder (exclude=a/1.png+b/1.png, path=photos)"
