"""`zero_shot` and `retrieval` against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import DataError, UsageError
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


def crowded_set(seed: int) -> ArraySet:
    """60 images, 30 of which share one caption, as sets of drawings have it."""
    rng = np.random.default_rng(seed)
    texts = tuple("a card" if i % 2 else f"thing {i} of {seed}" for i in range(60))
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    return ArraySet(name="crowded", source=ArraySource(images=images, texts=texts))


def test_random_embeddings_reach_chance() -> None:
    """The baseline is what embeddings that know nothing reach, crowds of equal captions included."""
    values, expected = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        model = toy_tokenizer()
        table: dict[str, torch.Tensor] = {}

        def embed(texts: list[str], table: dict[str, torch.Tensor] = table) -> torch.Tensor:
            for text in texts:
                table.setdefault(text, F.normalize(torch.randn(5), dim=0))
            return torch.stack([table[text] for text in texts])

        model.exports["embed_text"].forward = embed
        model.exports["embed_image"].forward = lambda f: F.normalize(torch.randn(f.cls.shape[0], 5), dim=1)
        entry = evaluate(model, {"r": Retrieval(RetrievalConfig(at=(5,)))}, crowded_set(seed))["retrieval_r5"]
        values.append([entry["also"]["image_to_text"], entry["also"]["text_to_image"], entry["value"]])
        expected.append(entry["baseline"])
    to_text, to_image, both = torch.tensor(values, dtype=torch.float64).mean(0).tolist()
    assert to_text == pytest.approx(5 / 31, abs=0.03)
    # Captions of one image: 5 of 60; the card: almost surely one of its 30.
    assert to_image == pytest.approx((30 * 5 / 60 + 1 - 0.0261) / 31, abs=0.02)
    assert both == pytest.approx(expected[0], abs=0.02) and len(set(expected)) == 1


def aligned(held_out: ArraySet) -> object:
    """A toy whose text head gives each text the embedding of its image."""
    model = toy_tokenizer()
    assert isinstance(held_out.source, ArraySource) and held_out.source.texts is not None
    (batch,) = held_out.batches(16, 1000)
    images = model.embed_image(batch.to(torch.device("cpu")).image)
    table = dict(zip(held_out.source.texts, images, strict=True))
    labels = held_out.source.labels
    for index, name in enumerate(held_out.source.classes or ()):
        rows = images[torch.tensor(labels) == index]
        table[name] = F.normalize(rows.mean(0), dim=0)
    model.exports["embed_text"].forward = lambda texts: torch.stack([table[text] for text in texts])
    return model


def test_retrieval_of_aligned_embeddings() -> None:
    held_out = drawn_set("val", 30, seed=0)
    results = evaluate(aligned(held_out), {"r": Retrieval(RetrievalConfig(at=(1, 5)))}, held_out, rows=8)
    assert results["retrieval_r1"]["value"] == 1.0
    assert results["retrieval_r5"]["baseline"] == pytest.approx(5 / 30)
    assert results["retrieval_r5"]["also"] == {
        "image_to_text": 1.0,
        "text_to_image": 1.0,
        "distinct_captions": 30,
    }


def test_retrieval_of_unaligned_embeddings_is_poor() -> None:
    held_out = drawn_set("val", 60, seed=0)
    results = evaluate(toy_tokenizer(), {"r": Retrieval(RetrievalConfig())}, held_out)
    assert results["retrieval_r1"]["value"] < 0.3


def test_equal_captions_are_one_answer() -> None:
    """An image of the crowd finds the crowd's caption, whichever sample's it is; one caption asks once."""
    data = crowded_set(0)
    entry = evaluate(aligned(data), {"r": Retrieval(RetrievalConfig(at=(1,)))}, data)["retrieval_r1"]
    assert entry["also"]["distinct_captions"] == 31
    assert entry["also"]["image_to_text"] >= 31 / 60 and entry["also"]["text_to_image"] == 1.0


def test_one_caption_for_all_is_refused() -> None:
    source = drawn_set("val", 12, seed=0).source
    assert isinstance(source, ArraySource)
    same = ArraySet(name="val", source=ArraySource(images=source.images, texts=("one",) * 12))
    with pytest.raises(DataError, match="two different"):
        evaluate(toy_tokenizer(), {"r": Retrieval(RetrievalConfig())}, same)


def test_zero_shot_with_known_class_embeddings() -> None:
    held_out = drawn_set("val", 40, seed=0)
    config = ZeroShotConfig(templates=("{class}",))
    results = evaluate(aligned(held_out), {"z": ZeroShot(config)}, held_out, rows=9)
    entry = results["zero_shot"]
    assert entry["value"] > 0.9 and entry["baselines"]["chance"] == pytest.approx(1 / 3)
    assert entry["baseline_name"] == "largest class" and entry["baseline"] == entry["also"]["majority_class"]
    assert entry["verdict"] == "better"
    assert set(entry["also"]) == {"majority_class", "per_class"}


def letters(texts: list[str]) -> torch.Tensor:
    """Five numbers that depend on every letter of a prompt and its place."""
    sums = [sum((place + 1) * ord(letter) for place, letter in enumerate(text)) for text in texts]
    return torch.tensor([[math.sin(total * factor) for factor in range(1, 6)] for total in sums])


class _Tower:
    """What open_clip asks of a model."""

    def encode_text(self, rows: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        return F.normalize(rows, dim=1) if normalize else rows


def test_prompts_of_imagenet_as_open_clip_embeds_them() -> None:
    model, batches = toy_tokenizer(), []

    def embed(texts: list[str]) -> torch.Tensor:
        batches.append(len(texts))
        return F.normalize(letters(texts), dim=1)

    model.exports["embed_text"].forward = embed
    names = open_clip.IMAGENET_CLASSNAMES[:50]
    expected = open_clip.build_zero_shot_classifier(
        _Tower(), letters, names, open_clip.OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=10
    )
    assert expected.shape == (5, 50)
    evaluator = ZeroShot(ZeroShotConfig(templates="openai"))
    evaluator.begin(model, names)
    torch.testing.assert_close(evaluator._classes.T, expected)
    assert sum(batches) == 4000 and max(batches) <= 256
    assert evaluator.protocol == "zero-shot-v1 (prompts openai, 80 of open_clip, mean of unit embeddings)"

    small = ZeroShot(ZeroShotConfig(templates=("{class}",), classes="imagenet"))
    small.begin(model, ())
    assert small._classes.shape == (1000, 5)
    assert "names of imagenet" in small.protocol


def test_labels_beyond_the_class_names() -> None:
    held_out = drawn_set("val", 40, seed=0)
    model = toy_tokenizer()
    with pytest.raises(DataError, match="a held-out label is 2, but there are only 2 class names"):
        evaluate(model, {"z": ZeroShot(ZeroShotConfig(classes=("a", "b")))}, held_out)


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
    with pytest.raises(UsageError, match="no class names"):
        evaluate(toy_tokenizer(), {"z": ZeroShot(ZeroShotConfig())}, nameless)
    with pytest.raises(ValueError, match="has no"):
        ZeroShotConfig(templates=("a photo",))
    with pytest.raises(ValueError, match="openai"):
        ZeroShotConfig(templates="opnai")
