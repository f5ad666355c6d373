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
from timm.data import ImageNetInfo

from tests.agreement import Agreement
from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.data.crops.geometry import resize
from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.parameters import Dims
from vtp_core.pixels import normalize
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.evaluator import Retrieval
from vtp_plugins.evaluate_retrieval.metric import chance, wrong_before_right
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.evaluator import ZeroShot
from vtp_plugins.evaluate_zero_shot.prompts import classes_of


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
    for seed in range(40):
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
        expected.append(entry["baselines"]["chance"])
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


def test_the_most_frequent_captions_are_the_stronger_trivial_answer() -> None:
    """Answering "a card" to every image is right for half of them, far above chance; to captions, for one."""
    data = crowded_set(0)
    keys = {"at": (1, 3), "each_direction": True}
    results = evaluate(toy_tokenizer(), {"r": Retrieval(RetrievalConfig(**keys))}, data)
    assert set(results) == {
        f"{name}_r{k}" for name in ("retrieval", "image_to_text", "text_to_image") for k in (1, 3)
    }
    for k in (1, 3):
        to_text, to_image = (29 + k) / 60, k / 31
        both = {"retrieval": (to_text + to_image) / 2, "image_to_text": to_text, "text_to_image": to_image}
        for name, value in both.items():
            entry = results[f"{name}_r{k}"]
            assert entry["baselines"]["the most frequent captions"] == pytest.approx(value)
            assert entry["baseline"] == max(entry["baselines"].values())
        mean = (results[f"image_to_text_r{k}"]["value"] + results[f"text_to_image_r{k}"]["value"]) / 2
        assert results[f"retrieval_r{k}"]["value"] == pytest.approx(mean)
        assert results[f"image_to_text_r{k}"]["value"] == results[f"retrieval_r{k}"]["also"]["image_to_text"]
    assert results["image_to_text_r1"]["baseline_name"] == "the most frequent captions"
    assert results["image_to_text_r1"]["verdict"] != "better"


def test_a_model_that_gives_the_most_frequent_caption_is_within_noise_of_that_answer() -> None:
    model, data = toy_tokenizer(), crowded_set(0)
    card = F.normalize(torch.ones(1, 5), dim=1)[0]
    model.exports["embed_text"].forward = lambda texts: torch.stack(
        [card if text == "a card" else -card for text in texts]
    )
    model.exports["embed_image"].forward = lambda f: card.expand(f.cls.shape[0], -1)
    config = RetrievalConfig(at=(1,), each_direction=True)
    entry = evaluate(model, {"r": Retrieval(config)}, data)["image_to_text_r1"]
    assert entry["value"] == entry["baseline"] == 0.5 and entry["verdict"] == "within noise"
    assert entry["interval"][0] < 0.5 < entry["interval"][1]


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


@pytest.mark.agrees("zero-shot classifier of ImageNet prompts", "open_clip_torch", 1e-5)
def test_prompts_of_imagenet_as_open_clip_embeds_them(agreement: Agreement) -> None:
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
    agreement(evaluator._classes.T, expected)
    assert sum(batches) == 4000 and max(batches) <= 256
    assert evaluator.protocol == "zero-shot-v1 (prompts openai, 80 of open_clip, mean of unit embeddings)"

    small = ZeroShot(ZeroShotConfig(templates=("{class}",), classes="imagenet"))
    small.begin(model, ())
    assert small._classes.shape == (1000, 5)
    assert "names of imagenet" in small.protocol


@pytest.mark.agrees("zero-shot accuracy, first and first five", "open_clip_torch", 1e-6)
def test_top_1_and_top_5_are_those_of_open_clip_with_its_own_tower(agreement: Agreement) -> None:
    """A small CLIP of open_clip in the toy's place: its classifier, its logits, its count of hits."""
    torch.manual_seed(0)
    text = open_clip.model.CLIPTextCfg(width=16, heads=2, layers=1)
    tower = open_clip.CLIP(5, open_clip.model.CLIPVisionCfg(layers=1, width=16, head_width=8), text).eval()
    tokenize = open_clip.SimpleTokenizer()
    names = open_clip.IMAGENET_CLASSNAMES[:12]
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8), rng.integers(0, 12, 70)
    source = ArraySource(images=images, labels=tuple(labels.tolist()), classes=ids()[:12])
    held_out, model = ArraySet(name="val", source=source), toy_tokenizer()
    model.exports["embed_text"].forward = lambda texts: tower.encode_text(tokenize(texts), normalize=True)
    results = evaluate(model, {"z": ZeroShot(ZeroShotConfig(templates="openai"))}, held_out, rows=32)
    assert list(results) == ["zero_shot", "zero_shot_top5"]
    with torch.no_grad():
        classifier = open_clip.build_zero_shot_classifier(
            tower, tokenize, names, open_clip.OPENAI_IMAGENET_TEMPLATES
        )
        (batch,) = held_out.batches(16, 100)
        logits = 100 * model.embed_image(batch.to(model.device).image) @ classifier
    hits = logits.topk(5, 1).indices == torch.tensor(labels)[:, None]
    for name, k in (("zero_shot", 1), ("zero_shot_top5", 5)):
        entry = results[name]
        agreement(entry["value"], hits[:, :k].any(1).double().mean())
        assert entry["baselines"]["chance"] == pytest.approx(k / 12)
        assert entry["interval"][0] <= entry["value"] <= entry["interval"][1] and entry["verdict"]
    counts = np.sort(np.bincount(labels, minlength=12))[::-1]
    assert results["zero_shot_top5"]["baseline"] == pytest.approx(counts[:5].sum() / 70)
    assert results["zero_shot_top5"]["baseline_name"] == "5 largest classes"


def ids() -> tuple[str, ...]:
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def named(classes: tuple[str, ...]) -> ArraySet:
    images, labels = np.zeros((4, 16, 16, 3), dtype=np.uint8), (0, 1, 0, 1)
    return ArraySet(name="val", source=ArraySource(images=images, labels=labels, classes=classes))


def test_wordnet_ids_are_read_as_open_clips_names_or_refused() -> None:
    own = ("n02084071", *ids()[2:3])  # a dog of ImageNet-21k, and a shark
    openai = ZeroShotConfig(templates="openai")
    assert classes_of(openai, ids()[3:0:-1]) == open_clip.IMAGENET_CLASSNAMES[3:0:-1]
    assert classes_of(openai, ("dog", "shark")) == ("dog", "shark")
    for config, classes, reason in (
        (ZeroShotConfig(), ids()[:3], "the classes of val are WordNet ids"),
        (openai, own, "n02084071 of val is none of ImageNet's 1,000 classes"),
        (ZeroShotConfig(classes="imagenet"), ids()[:3], "val has 3 classes, not the 1,000"),
        (ZeroShotConfig(classes="imagenet"), ids()[::-1], "the WordNet ids of val are not ImageNet's in"),
    ):
        with pytest.raises(UsageError, match=f"^evaluator z: {reason}"):
            evaluate(toy_tokenizer(), {"z": ZeroShot(config)}, named(classes))
    assert ZeroShot(ZeroShotConfig(classes="imagenet")).why_not(named(ids()), None) is None


COARSE = Dims(width=16, patch=64, depth=1, has_cls=True, channels=4, value_range="imagenet")


def test_the_published_protocol_squashes_to_256_pixels_in_bfloat16() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 30, 50, 3), dtype=np.uint8)
    source = ArraySource(images=images, labels=(0, 7, 9, 20, 500, 999))
    held_out, model = EvaluationSet(name="val", source=source), tiny_tokenizer(COARSE, size=256)
    config = ZeroShotConfig.model_validate_json(
        '{"protocol": "vtp-2512", "force": true, "at": [1, 5]}', strict=True
    )
    settled = config.settled()
    assert (settled.templates, settled.classes, settled.ranks) == ("openai", "imagenet", (1, 5))
    with pytest.raises(UsageError, match="vtp-2512 is measured on 50000 images, and val has 6"):
        evaluate(model, {"z": ZeroShot(ZeroShotConfig(protocol="vtp-2512"))}, held_out)
    seen: list[torch.Tensor] = []
    model.exports["embed_image"].register_forward_hook(lambda _m, _a, out: seen.append(out))
    model.exports["embed_text"].forward = lambda texts: F.normalize(torch.randn(len(texts), 8), dim=1)
    results = evaluate(model, {"z": ZeroShot(config)}, held_out)
    mark = "@vtp-2512-PARTIAL-6-of-50000"
    assert set(results) == {f"zero_shot{mark}", f"zero_shot_top5{mark}"}
    assert "squash-v1, encoder in bfloat16 256 px" in str(results[f"zero_shot{mark}"]["protocol"])
    (lower,) = seen
    squashed = torch.stack([resize(image, None, (256, 256), "bilinear") for image in images])
    whole = model.embed_image(normalize(squashed.float() / 255))
    assert 1e-6 < (lower.float() - whole).abs().max() < 0.05
    with pytest.raises(ValueError, match="the protocol vtp-2512 fixes classes"):
        ZeroShotConfig(protocol="vtp-2512", classes=("a", "b"))
    with pytest.raises(ValueError, match="force needs a protocol"):
        ZeroShotConfig(force=True)


def test_ranks_beyond_the_classes_and_classes_without_an_image() -> None:
    held_out = drawn_set("val", 40, seed=0)
    results = evaluate(toy_tokenizer(), {"z": ZeroShot(ZeroShotConfig(at=(1, 2, 5)))}, held_out)
    assert list(results) == ["zero_shot", "zero_shot_top2"]
    with pytest.raises(DataError, match="`at` asks for the first 5 of 3 classes"):
        evaluate(toy_tokenizer(), {"z": ZeroShot(ZeroShotConfig(at=(5,)))}, held_out)
    four = ZeroShot(ZeroShotConfig(classes=("red", "green", "blue", "black")))
    entry = evaluate(toy_tokenizer(), {"z": four}, held_out)["zero_shot"]
    assert entry["notes"] == [
        "1 of 4 classes have no held-out image (black); the number says nothing about them"
    ]


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


def test_a_recipe_may_list_prompts_classes_and_ranks() -> None:
    table = '{"use": "zero_shot", "templates": ["a {class}"], "classes": ["cat", "dog"], "at": [1, 2]}'
    config = ZeroShotConfig.model_validate_json(table, strict=True)
    assert (config.templates, config.classes, config.at) == (("a {class}",), ("cat", "dog"), (1, 2))
