"""`part` and `exclude`: which samples of a source a recipe's table keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.core.data.making import DrawnSource, encoded, noise
from vtp_core.config import SourceConfig
from vtp_core.data.opening import Sources
from vtp_core.data.part import Part, place
from vtp_core.errors import DataError
from vtp_core.plugins import load_plugins
from vtp_plugins.image_folder.config import ImageFolderConfig


def keys(part: Part) -> list[str]:
    return [part.read(index, frozenset()).key for index in range(len(part))]


def config(**options: object) -> SourceConfig:
    return SourceConfig.model_validate({"use": "drawn", **options})


def test_parts_are_disjoint_cover_everything_and_keep_the_order() -> None:
    source = DrawnSource(count=2000)
    parts = [keys(Part(source, config(part=[low, high]))) for low, high in ((0, 0.9), (0.9, 1))]
    everything = [f"s{index}" for index in range(2000)]
    assert sorted(parts[0] + parts[1]) == sorted(everything) and not set(parts[0]) & set(parts[1])
    assert all(part == [key for key in everything if key in set(part)] for part in parts)
    assert 150 < len(parts[1]) < 250  # 200 expected, standard deviation 13


def test_a_new_sample_moves_no_other() -> None:
    few, more = (set(keys(Part(DrawnSource(count=n), config(part=[0, 0.5])))) for n in (100, 150))
    assert few == {key for key in more if int(key[1:]) < 100}


def test_place_of_a_key_is_the_same_everywhere() -> None:
    digest = hashlib.blake2b(b"('part', 'cat/1.png')", digest_size=8).digest()
    assert place("cat/1.png") == int.from_bytes(digest, "little") / 2**64


def test_excluded_keys_are_left_out_and_absent_ones_named() -> None:
    part = Part(DrawnSource(count=4, bad={}), config(exclude=["s2", "gone"]))
    assert keys(part) == ["s0", "s1", "s3"]
    assert part.problems() == {"excluded, but not there": ["gone"]}
    assert part.read(2, frozenset({"label"})).label == 1


def test_a_part_with_nothing_is_an_error_and_so_is_a_range_that_falls() -> None:
    with pytest.raises(DataError, match="leave none of 1"):
        Part(DrawnSource(count=1), config(exclude=["s0"]))
    with pytest.raises(ValidationError, match="the first fraction must be below the second"):
        config(part=[0.9, 0.1])


def test_opening_a_table_with_a_part(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(encoded(noise(seed=index)))
    sources = Sources(load_plugins())
    parts = [
        sources.open(ImageFolderConfig(path=str(tmp_path), part=part, exclude=("3.png",)))
        for part in ((0, 0.5), (0.5, 1))
    ]
    read = {part.read(index, part.fields).key for part in parts for index in range(len(part))}
    assert sum(map(len, parts)) == 39 and len(read) == 39 and "3.png" not in read
