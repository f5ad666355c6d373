"""Random subsets: the smallest hashes, nested, in bounded memory, independent of how shards are listed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.data.making import samples, write_tar
from vtp_core.data.draw import integer
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.tar_shards import shards as shards_module
from vtp_plugins.tar_shards import subset as subset_module
from vtp_plugins.tar_shards.index import ShardIndex
from vtp_plugins.tar_shards.keys import Keys
from vtp_plugins.tar_shards.shards import Shards
from vtp_plugins.tar_shards.subset import Subset, smallest
from vtp_plugins.webdataset.config import WebDatasetConfig
from vtp_plugins.webdataset.source import WebDataset

COLUMNS = {"image": ["png"]}
WORD = (1 << 64) - 1


def mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
    return value ^ (value >> 31)


def hash_of(seed: int, shard: str, key: str) -> int:
    """The hash of one sample, in plain integers."""
    data, state = key.encode(), integer("subset", seed, shard)
    for start in range(0, len(data), 8):
        state = mixed(state ^ int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little"))
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of twenty samples; all shards have the same keys."""
    made = tmp_path_factory.mktemp("shards")
    for shard in range(6):
        write_tar(made / f"{shard:02}.tar", samples(20))
    return made


def taken(paths: Sequence[Path], subset: Subset | None) -> list[tuple[str, str]]:
    """(shard, key) of every sample, in order."""
    shards = Shards(paths, COLUMNS, cache=False, subset=subset)
    return [(shards.shard(index).name, shards.key(index)) for index in range(len(shards))]


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_it_is_the_samples_of_the_smallest_hash(folder: Path, seed: int) -> None:
    paths = sorted(folder.glob("*.tar"))
    everything = taken(paths, None)
    ranked = sorted(everything, key=lambda sample: hash_of(seed, *sample))
    previous: set[tuple[str, str]] = set()
    for size in (1, 7, 50, 119, 120):
        found = taken(paths, Subset(size, seed))
        assert len(found) == size and set(found) == set(ranked[:size])
        assert found == [sample for sample in everything if sample in set(found)]  # in the shards' order
        assert previous <= set(found)
        previous = set(found)


def test_equal_keys_of_two_shards_are_two_samples(folder: Path) -> None:
    found = taken(sorted(folder.glob("*.tar")), Subset(60))
    keys = {shard: {key for name, key in found if name == shard} for shard, _ in found}
    assert len({frozenset(own) for own in keys.values()}) == len(keys) == 6


def test_order_and_place_of_the_shards_do_not_matter(folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.glob("*.tar"))
    copies = [write_tar(tmp_path / path.name, samples(20)) for path in reversed(paths)]
    assert set(taken(copies, Subset(31, 5))) == set(taken(paths, Subset(31, 5)))


def test_samples_are_read_as_without_it(folder: Path) -> None:
    def opened(**options: object) -> WebDataset:
        return WebDataset(WebDatasetConfig(urls=f"{folder}/*.tar", **options), DecodeLimits())

    everything, some = opened(), opened(subset={"size": 30, "seed": 3})
    fields = frozenset({"image", "text", "label"})
    assert some.fields == everything.fields == fields and len(some) == 30
    place = {sample: index for index, sample in enumerate(taken(sorted(folder.glob("*.tar")), None))}
    for index in range(30):
        other = place[some.shards.shard(index).name, some.shards.key(index)]
        mine, theirs = some.read(index, fields), everything.read(other, fields)
        assert (mine.key, mine.text, mine.label) == (theirs.key, theirs.text, theirs.label)
        numpy.testing.assert_array_equal(mine.image, theirs.image)


def test_more_than_there_is(folder: Path) -> None:
    with pytest.raises(DataError, match=r"subset\.size = 121, but the shards hold 120 samples"):
        taken(sorted(folder.glob("*.tar")), Subset(121))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_of_equal_hashes_the_first_are_taken(values: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(values)))
    chosen = smallest(numpy.array(values, dtype=numpy.uint64), size)
    expected = sorted(range(len(values)), key=lambda place: (values[place], place))[:size]
    assert numpy.flatnonzero(chosen).tolist() == sorted(expected)


@given(st.text(min_size=1, max_size=20), st.integers(0, 2**63 - 1))
def test_the_length_of_other_keys_does_not_count(key: str, seed: int) -> None:
    data = key.encode()
    if b"\0" in data:  # no member's name has one
        return
    for other in (b"x", data + b"x", data + b"x" * 9):
        found = Subset(1, seed).hashes("a.tar", Keys.of([other, data]))
        assert found.tolist() == [hash_of(seed, "a.tar", name.decode()) for name in (other, data)]


def test_hashes_are_uniform() -> None:
    keys = Keys.of(b"%09d" % number for number in range(200_000))
    for shard in ("00000.tar", "00001.tar"):
        hashes = Subset(1).hashes(shard, keys)
        counts = numpy.bincount((hashes >> numpy.uint64(58)).astype(int), minlength=64)
        expected = len(keys) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 118  # 63 degrees of freedom, p = 3e-5
        assert len(numpy.unique(hashes)) == len(keys)


@pytest.mark.slow
def test_one_pass_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand shards, of which no more than the subset, a quarter and one shard are held."""
    rows, count, read = 2_000, 1_000, []
    offsets = numpy.arange(2 * rows, dtype=numpy.int64).reshape(rows, 2)
    index = ShardIndex(
        size=1,
        mtime=1,
        extensions=("png", "txt"),
        offsets=offsets,
        lengths=offsets,
        keys=Keys.of(b"%09d" % number for number in range(rows)),
        problems={},
    )

    def load_index(path: Path, known: Sequence[str], *, cache: bool) -> ShardIndex:
        read.append(path)
        return index

    monkeypatch.setattr(shards_module, "load_index", load_index)
    monkeypatch.setattr(subset_module, "_SLACK", 1_000)
    subset = Subset(20_000)
    assert subset.most_held == 25_000
    tracemalloc.start()
    shards = Shards([Path(f"{shard:05}.tar") for shard in range(count)], COLUMNS, subset=subset)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shards) == 20_000 and len(read) == count  # each shard once
    # A sample takes 42 bytes (key and its end, offset, length, hash); all two million would take 84 MB.
    assert peak < 6e6
