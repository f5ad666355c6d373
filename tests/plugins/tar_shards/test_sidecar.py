"""The cached index of a shard: used while it is that of the shard, else built again, whatever is in it."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load, save

from tests.core.data.making import samples, write_tar
from vtp_plugins.tar_shards import sidecar as sidecar_module
from vtp_plugins.tar_shards.index import ShardIndex, build_index
from vtp_plugins.tar_shards.keys import Keys
from vtp_plugins.tar_shards.sidecar import load_index

KNOWN = ["png", "txt", "cls", "jpg", "seg.png"]


def equal(one: ShardIndex, other: ShardIndex) -> bool:
    return (
        (one.size, one.mtime, one.extensions) == (other.size, other.mtime, other.extensions)
        and (one.others, one.problems) == (other.others, other.problems)
        and numpy.array_equal(one.offsets, other.offsets)
        and numpy.array_equal(one.lengths, other.lengths)
        and list(one.keys) == list(other.keys)
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose headers were read."""
    read: list[Path] = []

    def build(shard: Path, known: list[str]) -> ShardIndex:
        read.append(shard)
        return build_index(shard, known)

    monkeypatch.setattr(sidecar_module, "build_index", build)
    return read


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    members = [*samples(3), ("00002.exr", b"x"), ("z.png", b"1"), ("00001.txt", b"again")]
    return write_tar(tmp_path / "a.tar", members)


def place_of(shard: Path) -> Path:
    return shard.with_name(shard.name + ".vtp-index")


def test_cache_is_used_until_the_shard_changes(shard: Path, built: list[Path]) -> None:
    first = load_index(shard, KNOWN)
    assert place_of(shard).exists() and len(built) == 1
    assert equal(load_index(shard, KNOWN), first) and len(built) == 1
    assert first.others == {"exr": 1} and first.problems["interleaved member (regrouped)"] == 1
    load_index(shard, ["png"])
    assert len(built) == 2  # other extensions: another index
    write_tar(shard, samples(4))
    assert len(load_index(shard, KNOWN)) == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"nonsense", b"\xff" * 8, bytes(100_000)])
def test_a_file_of_another_kind_is_replaced(shard: Path, content: bytes) -> None:
    expected = load_index(shard, KNOWN)
    whole = place_of(shard).read_bytes()
    place_of(shard).write_bytes(content)
    assert equal(load_index(shard, KNOWN), expected)
    assert place_of(shard).read_bytes() == whole
    assert sorted(path.name for path in shard.parent.iterdir()) == ["a.tar", "a.tar.vtp-index"]


def test_a_pipe_or_link_in_its_place_is_not_opened(shard: Path, built: list[Path]) -> None:
    expected = load_index(shard, KNOWN)
    moved = place_of(shard).rename(shard.with_name("elsewhere"))
    os.mkfifo(place_of(shard))
    assert equal(load_index(shard, KNOWN), expected)
    place_of(shard).unlink()
    place_of(shard).symlink_to(moved)
    assert equal(load_index(shard, KNOWN), expected) and len(built) == 3
    assert not place_of(shard).is_symlink() and moved.exists()


def test_flips_of_a_sidecar(shard: Path) -> None:
    """256 flipped bits, and a cut at every 16th byte: the index is the same, read or built again."""
    expected, place, rng = load_index(shard, KNOWN), place_of(shard), random.Random(0)
    good, outcomes = place.read_bytes(), Counter[str]()
    damaged = [good[:length] for length in range(0, len(good), 16)]
    for _ in range(256):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(bad))
    for data in damaged:
        place.write_bytes(data)
        found = sidecar_module._read(place, KNOWN, shard.stat())
        assert found is None or equal(found, expected)
        outcomes["refused" if found is None else "changed nothing"] += 1
    assert outcomes["refused"] > 0.9 * len(damaged)
    assert found is not None or equal(load_index(shard, KNOWN), expected)


Arrays = dict[str, numpy.ndarray]


def facts(**changes: object) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        text = json.dumps(json.loads(arrays["facts"].tobytes()) | changes)
        return arrays | {"facts": numpy.frombuffer(text.encode(), dtype=numpy.uint8)}

    return change


def array(name: str, change: Callable[[numpy.ndarray], numpy.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: change(arrays[name])}


def keys(*names: bytes) -> Callable[[Arrays], Arrays]:
    return array("keys", lambda _: Keys.of(names).data)


HOSTILE = {
    "facts_are_a_list": lambda arrays: arrays | {"facts": numpy.frombuffer(b"[1]", dtype=numpy.uint8)},
    "facts_are_deep": lambda arrays: arrays | {"facts": numpy.full(20_000, ord("["), dtype=numpy.uint8)},
    "facts_are_cut": array("facts", lambda data: data[:-3]),
    "another_version": facts(version=1),
    "others_are_a_list": facts(others=[["exr", 1]]),
    "counts_are_text": facts(problems={"a": "b"}),
    "counts_are_negative": facts(problems={"a": -1}),
    "escapes_in_a_problem": facts(problems={"\x1b[2J": 1}),
    "extensions_are_numbers": facts(extensions=[1, 2, 3]),
    "extensions_are_lists": facts(extensions=[["png"], ["txt"], ["cls"]]),
    "an_extension_twice": facts(extensions=["png", "png", "cls"]),
    "an_unknown_extension": facts(extensions=["png", "txt", "exe"]),
    "too_few_extensions": facts(extensions=["png"]),
    "rows_differ": array("offsets", lambda data: data[:2]),
    "one_dimension": array("offsets", lambda data: data[:, 0]),
    "no_rows": array("keys", lambda data: data[:0]),
    "fractions": array("offsets", lambda data: data * 1.5),
    "narrow": array("lengths", lambda data: data.astype(numpy.int32)),
    "wide_keys": array("keys", lambda data: data.astype(numpy.int64)),
    "negative_lengths": array("lengths", lambda data: data * 0 - 5),
    "far": array("offsets", lambda data: data + 512 * 10**12),
    "overflowing": array("lengths", lambda data: numpy.full_like(data, 2**63 - 1)),
    "within_a_header": array("offsets", lambda data: data + 7),
    "before_the_file": array("offsets", lambda data: data - 10**6),
    "lengths_without_members": lambda arrays: arrays | {"lengths": numpy.abs(arrays["lengths"]) + 1},
    "climbing_keys": keys(b"../../../etc/x", b"b", b"c", b"d"),
    "absolute_keys": keys(b"/etc/x", b"b", b"c", b"d"),
    "dots": keys(b"a/./b", b"b", b"c", b"d"),
    "empty_keys": keys(b"", b"b", b"c", b"d"),
    "open_end": array("keys", lambda data: numpy.append(data, numpy.uint8(65))),
    "another_array": lambda arrays: arrays | {"more": arrays["keys"]},
    "an_array_less": lambda arrays: {name: arrays[name] for name in ("facts", "keys", "lengths")},
}


def written(place: Path, arrays: Arrays) -> None:
    """Writes a sidecar whose hash is right."""
    arrays = {name: numpy.ascontiguousarray(value) for name, value in arrays.items()}
    digest = sidecar_module._digest(arrays) if sidecar_module._ARRAYS.keys() <= arrays.keys() else None
    place.write_bytes(save(arrays if digest is None else {**arrays, "digest": digest}))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_built_again(shard: Path, built: list[Path], name: str) -> None:
    expected, place = load_index(shard, KNOWN), place_of(shard)
    arrays = load(place.read_bytes())
    del arrays["digest"]
    written(place, arrays)
    assert equal(load_index(shard, KNOWN), expected) and len(built) == 1  # so the change is what is refused
    written(place, HOSTILE[name](arrays))
    assert equal(load_index(shard, KNOWN), expected) and len(built) == 2


def test_rows_of_another_order_are_built_again(tmp_path: Path, built: list[Path]) -> None:
    shard = write_tar(tmp_path / "b.tar", samples(4))
    index = load_index(shard, KNOWN)
    turned = replace(index, offsets=index.offsets[::-1], lengths=index.lengths[::-1])
    place_of(shard).write_bytes(sidecar_module._packed(turned, KNOWN))
    assert equal(load_index(shard, KNOWN), index) and len(built) == 2


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes a folder read-only, for root too."""
    real = sidecar_module._write

    def write(place: Path, data: bytes) -> None:
        if place.parent == folder:
            raise PermissionError(place)
        real(place, data)

    monkeypatch.setattr(sidecar_module, "_write", write)


def test_read_only_folder_uses_the_users_cache(
    shard: Path, tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refuse(monkeypatch, tmp_path)
    first = load_index(shard, KNOWN)
    assert not place_of(shard).exists()
    assert len(list((tmp_path / "cache" / "vtp" / "shards").iterdir())) == 1
    assert equal(load_index(shard, KNOWN), first) and len(built) == 1


@pytest.mark.parametrize("writable", [True, False])
def test_a_user_without_a_home_folder(shard: Path, writable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    if not writable:
        refuse(monkeypatch, shard.parent)
    assert len(load_index(shard, KNOWN)) == 4
    assert place_of(shard).exists() == writable
