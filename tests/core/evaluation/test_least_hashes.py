"""The images of least hash, against sorting all of them."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vtp_core.evaluation.sets.least_hashes import LeastHashes, image_hashes, least


@settings(max_examples=30, deadline=None)
@given(
    hashes=st.lists(st.integers(0, 2**63 - 1), max_size=40, unique=True),
    rows=st.integers(1, 41),
    most=st.integers(1, 45),
)
def test_the_rows_are_those_of_the_least_hashes_in_any_batches(
    hashes: list[int], rows: int, most: int
) -> None:
    kept = LeastHashes(most)
    order = torch.tensor(hashes, dtype=torch.int64)
    for part in order.split(rows):
        admitted = kept.admits(part)
        images = (part[admitted] % 251).to(torch.uint8).view(-1, 1, 1).expand(-1, 3, 2)
        kept.add({"order": part[admitted], "image": images})
    found, expected = least(kept.rows, most), sorted(hashes)[:most]
    assert found["order"].tolist() == expected and found["image"].shape == (len(expected), 3, 2)
    assert found["image"][:, 2, 1].tolist() == [value % 251 for value in expected]
    assert least(kept.rows, 2)["order"].tolist() == expected[:2]


def test_only_images_that_would_be_kept_are_admitted() -> None:
    kept = LeastHashes(2)
    assert kept.rows == {} and kept.admits(torch.zeros(0, dtype=torch.int64)).tolist() == []
    kept.add({"order": torch.tensor([5, 9])})
    assert kept.admits(torch.tensor([7, 11, 3])).tolist() == [False, False, True]
    assert kept.admits(torch.tensor([7, 11])).tolist() == [True, False]
    places = kept.rows["order"].data_ptr()
    kept.add({"order": torch.tensor([7])})
    assert kept.rows["order"].sort().values.tolist() == [5, 7] and kept.rows["order"].data_ptr() == places


@pytest.mark.parametrize("key", ["a", "Grüße", "\udce9"])
def test_a_hash_is_of_key_and_pixels(key: str) -> None:
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    found = image_hashes([key, key], image)
    assert found[0] != found[1] and found[0] != image_hashes(["b"], image[:1])[0]
    digest = hashlib.blake2b(key.encode("utf-8", "replace") + b"\0" + bytes(range(12)), digest_size=8)
    assert int(found[0]) == int.from_bytes(digest.digest(), "big") >> 1
