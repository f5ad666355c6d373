"""The pass that the galleries choose from, and what they choose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.core.evaluation_sets import ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.report.similar import neighbours, text_queries
from vtp_core.report.survey import MOST_NUMBERS, Survey, compact, survey


@dataclass(frozen=True)
class Damaged(ArraySource):
    """Every third image can't be read."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if index % 3 == 1:
            raise BadSample(f"s{index}", "broken")
        return super().read(index, fields)


def pool(count: int = 20, **options: object) -> Survey:
    return survey(toy_tokenizer(), drawn_set("val", count, 0), rows=4, **options)  # type: ignore[arg-type]


def test_all_images_are_measured_in_order() -> None:
    found = pool()
    assert found.keys == [f"s{i}" for i in range(20)] and found.positions == list(range(20))
    assert found.captions[3].endswith(" 3") and set(found.labels) <= {0, 1, 2}
    assert found.shape == (48, 4, 4) and found.latents.shape == (20, 48 * 16)


def test_a_part_is_spread_over_the_set() -> None:
    assert pool(most=5).positions == [0, 4, 8, 12, 16]
    # Time is up after the first batch: four images, spread too.
    assert pool(seconds=0.0).positions == [0, 5, 10, 15]


def test_bad_images_are_left_out_only_where_the_set_says_so() -> None:
    whole = drawn_set("val", 9, 0).source
    assert isinstance(whole, ArraySource)
    source = Damaged(images=whole.images, texts=whole.texts, labels=whole.labels, classes=whole.classes)
    data = EvaluationSet(name="val", source=source, skip_bad=True)
    found = survey(toy_tokenizer(), data, rows=4)
    assert found.keys == ["s0", "s2", "s3", "s5", "s6", "s8"]
    assert found.positions == [0, 2, 3, 5, 6, 8]
    with pytest.raises(DataError, match="broken"):
        survey(toy_tokenizer(), replace(data, skip_bad=False), rows=4)


@dataclass(frozen=True)
class Undescribed(ArraySource):
    """One image lacks its caption, one its label."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        for place, name in ((3, "text"), (4, "label")):
            if index == place and name in fields:
                raise BadSample(f"s{index}", f"no {name}")
        return super().read(index, fields)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_image_without_caption_or_label_is_measured(skip_bad: bool) -> None:
    whole = drawn_set("val", 9, 0).source
    assert isinstance(whole, ArraySource) and whole.texts is not None and whole.labels is not None
    source = Undescribed(images=whole.images, texts=whole.texts, labels=whole.labels, classes=whole.classes)
    found = survey(toy_tokenizer(), EvaluationSet(name="val", source=source, skip_bad=skip_bad), rows=4)
    assert found.positions == list(range(9))
    assert found.captions == ["" if place == 3 else text for place, text in enumerate(whole.texts)]
    assert found.labels == [-1 if place == 4 else label for place, label in enumerate(whole.labels)]


def test_queries_find_what_a_search_by_hand_finds() -> None:
    model, found = toy_tokenizer(), pool()
    queries = text_queries(model, found, ("red", "green", "blue"), avoid={0, 1}, captions=3)
    assert [query.kind for query in queries] == ["caption"] * 3 + ["class"] * 3
    assert found.embeddings is not None
    images = found.embeddings.double().numpy()
    for query in queries:
        text = model.embed_text([query.text]).double().detach().numpy()[0]
        scores = images @ text
        order = np.argsort(-scores, kind="stable")
        assert [item.similarity for item in query.found] == pytest.approx(sorted(scores)[::-1][:5], abs=1e-6)
        if query.kind == "caption":
            assert query.row not in (0, 1) and found.captions[query.row] == query.text
            assert query.rank == 1 + int((scores > scores[query.row] + 1e-9).sum())
            assert [item.match for item in query.found] == [item.row == query.row for item in query.found]
        else:
            label = ("red", "green", "blue").index(query.text)
            assert [item.match for item in query.found] == [found.labels[i.row] == label for i in query.found]
        assert len(order) == 20


def test_neighbours_are_the_nearest_centred_latents() -> None:
    found = pool()
    flat = found.latents.double().numpy()
    for query in neighbours(found, avoid={0}, count=3):
        assert query.row not in (0, None)
        scores = flat @ flat[query.row]
        scores[query.row] = -np.inf
        assert [item.row for item in query.found] == list(np.argsort(-scores)[:5])
    assert float(found.latents.norm(dim=1).sub(1).abs().max()) < 1e-5


def test_large_latents_are_averaged() -> None:
    small, large = torch.randn(2, 64, 16, 16), torch.randn(2, 768, 12, 12)
    assert torch.equal(compact(small), small.flatten(1))
    squares = large.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert torch.allclose(compact(large), squares.flatten(1), atol=1e-6)
    assert compact(torch.ones(1, MOST_NUMBERS + 5, 2, 2)).shape == (1, MOST_NUMBERS)


def test_a_set_of_one_image_has_no_neighbours() -> None:
    found = pool(1)
    (query,) = neighbours(found)
    assert query.found == ()


def test_without_text_nothing_is_asked() -> None:
    found = survey(toy_tokenizer(text=False), drawn_set("val", 5, 0), rows=4)
    assert found.embeddings is None and text_queries(toy_tokenizer(text=False), found, ()) == []
    assert torch.isfinite(found.latents).all()
