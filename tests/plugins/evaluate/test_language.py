"""`zero_shot` and `retrieval` against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import DataError
from vtp_core.evaluation.runner import evaluate
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.evaluator import Retrieval
from vtp_plugins.evaluate_retrieval.metric import chance, wrong_before_right
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.evaluator import ZeroShot


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 1000))
def test_hits_are_those_of_a_sorted_list(n: int, kinds: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    query, gallery = (F.normalize(torch.randn(n, 3, generator=g), dim=1) for _ in range(2))
    ids = torch.randint(0, kinds, (n,), generator=g)
    counts = wrong_before_right(query, gallery, ids, ids)
    for i in range(n):
        order = (query[i].double() @ gallery.double().T).argsort(descending=True)
        for k in (1, 2, 5):
            hit = any(int(ids[j]) == int(ids[i]) for j in order[:k])
            assert bool(counts[i] < k) == hit


def test_ties_count_against_the_query() -> None:
    same = torch.ones(4, 2) / 2**0.5
    assert wrong_before_right(same, same, torch.arange(4), torch.arange(4)).tolist() == [3, 3, 3, 3]


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 7))
def test_chance_is_counted_by_hand(items: int, k: int, right: int) -> None:
    right, k = min(right, items), min(k, items)
    draws = list(itertools.combinations(range(items), k))
    expected = sum(any(i < right for i in draw) for draw in draws) / len(draws)
    assert chance(torch.tensor([right]), items, k) == pytest.approx(expected)


def test_random_embeddings_reach_chance() -> None:
    """The baseline is what a tokenizer that knows nothing reaches, equal captions included."""
    g = torch.Generator().manual_seed(0)
    caption = torch.randint(0, 60, (400,), generator=g)
    counts = caption.bincount()[caption]
    hits = []
    for _ in range(20):
        a, b = (F.normalize(torch.randn(400, 16, generator=g), dim=1) for _ in range(2))
        hits.append((wrong_before_right(a, b, caption, caption) < 5).double().mean())
    mean, expected = torch.stack(hits).mean().item(), chance(counts, 400, 5)
    assert mean == pytest.approx(expected, abs=0.01)


def aligned(held_out: ArraySet) -> object:
    """A toy whose text head gives each text the embedding of its image."""
    model = toy_tokenizer()
    assert isinstance(held_out.source, ArraySource) and held_out.source.texts is not None
    (batch,) = held_out.batches(16, 1000)
    images = model.embed_image(batch.to(torch.device("cpu")).image)
    table = dict(zip(held_out.source.texts, images, strict=True))
    labels = held_out.source.labels
    for index, name in enumerate(held_out.source.classes):
        rows = images[torch.tensor(labels) == index]
        table[name] = F.normalize(rows.mean(0), dim=0)
    model.exports["embed_text"].forward = lambda texts: torch.stack([table[text] for text in texts])
    return model


def test_retrieval_of_aligned_embeddings() -> None:
    held_out = drawn_set("val", 30, seed=0)
    results = evaluate(aligned(held_out), {"r": Retrieval(RetrievalConfig(at=(1, 5)))}, held_out, rows=8)
    assert results["retrieval_r1"]["value"] == 1.0
    assert results["retrieval_r5"]["baseline"] == pytest.approx(5 / 30)
    assert results["retrieval_r5"]["also"] == {"image_to_text": 1.0, "text_to_image": 1.0}


def test_retrieval_of_unaligned_embeddings_is_poor() -> None:
    held_out = drawn_set("val", 60, seed=0)
    results = evaluate(toy_tokenizer(), {"r": Retrieval(RetrievalConfig())}, held_out)
    assert results["retrieval_r1"]["value"] < 0.3


def test_equal_captions_are_hits_to_each_other() -> None:
    source = drawn_set("val", 12, seed=0).source
    assert isinstance(source, ArraySource)
    same = ArraySet(name="val", source=ArraySource(images=source.images, texts=("one",) * 12))
    results = evaluate(toy_tokenizer(), {"r": Retrieval(RetrievalConfig(at=(1,)))}, same)
    assert results["retrieval_r1"]["value"] == 1.0 == results["retrieval_r1"]["baseline"]


def test_zero_shot_with_known_class_embeddings() -> None:
    held_out = drawn_set("val", 40, seed=0)
    config = ZeroShotConfig(templates=("{class}",))
    results = evaluate(aligned(held_out), {"z": ZeroShot(config)}, held_out, rows=9)
    entry = results["zero_shot"]
    assert entry["value"] > 0.9 and entry["baseline"] == pytest.approx(1 / 3)
    assert set(entry["also"]) == {"majority_class", "per_class"}


def test_a_constant_prediction_has_chance_per_class() -> None:
    held_out = drawn_set("val", 40, seed=0)
    model = toy_tokenizer()
    model.exports["embed_text"].forward = lambda texts: F.normalize(torch.ones(len(texts), 5), dim=1)
    entry = evaluate(model, {"z": ZeroShot(ZeroShotConfig())}, held_out)["zero_shot"]
    assert entry["also"]["per_class"] == pytest.approx(1 / 3)


def test_no_classes_and_bad_templates() -> None:
    source = drawn_set("val", 4, seed=0).source
    assert isinstance(source, ArraySource)
    nameless = ArraySet(name="v", source=ArraySource(images=source.images, labels=(0, 1, 0, 1)))
    with pytest.raises(DataError, match="no class names"):
        evaluate(toy_tokenizer(), {"z": ZeroShot(ZeroShotConfig())}, nameless)
    with pytest.raises(ValueError, match="has no"):
        ZeroShotConfig(templates=("a photo",))
