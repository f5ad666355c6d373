"""Shard indices and shards: faults of archives are seen and named."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.data.making import samples, write_tar
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_plugins.tar_shards.index import build_index, split_name
from vtp_plugins.tar_shards.shards import Shards

KNOWN = ["png", "txt", "cls", "jpg", "seg.png"]
COLUMNS = {"image": ["png", "jpg"], "text": ["txt"]}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("0001.jpg", ("0001", "jpg")),
        ("a/b/img.v1.jpg", ("a/b/img.v1", "jpg")),
        ("0001.seg.png", ("0001", "seg.png")),
        ("a/0001/Seg.png", ("a/0001", "seg.png")),
        ("seg.png", ("seg", "png")),
        ("0001.JPG", ("0001", "jpg")),
        ("x.v1.foo", ("x.v1", "foo")),
        ("noextension", ("noextension", "")),
        ("../../etc/x.jpg", ("etc/x", "jpg")),
        ("/abs/x.jpg", ("abs/x", "jpg")),
        ("..\\..\\x.jpg", ("x", "jpg")),
        ("./x.jpg", ("x", "jpg")),
    ],
)
def test_split_name(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name, KNOWN) == expected


@given(st.text(max_size=40))
def test_keys_never_climb(name: str) -> None:
    key, _ = split_name(name, KNOWN)
    assert not key.startswith("/") and ".." not in key.split("/")


def test_members_are_where_the_index_says(tmp_path: Path) -> None:
    members = samples(5)
    shard = write_tar(tmp_path / "a.tar", members, tarfile.PAX_FORMAT)
    index = build_index(shard, KNOWN)
    data = shard.read_bytes()
    stored = dict(members)
    assert [index.key(row) for row in range(len(index))] == [f"{row:05}" for row in range(5)]
    for row in range(5):
        for place, extension in enumerate(index.extensions):
            start, length = int(index.offsets[row, place]), int(index.lengths[row, place])
            assert data[start : start + length] == stored[f"{index.key(row)}.{extension}"]
    assert index.problems == {}


def test_long_names_are_read(tmp_path: Path) -> None:
    name = "d/" * 80 + "x.png"
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        index = build_index(write_tar(tmp_path / f"{format}.tar", [(name, b"1")], format), KNOWN)
        assert index.key(0) == name.removesuffix(".png")


@pytest.mark.parametrize("drop", [600, 1500, 3000, 10_000])
def test_cut_archive_is_flagged_and_its_last_sample_dropped(tmp_path: Path, drop: int) -> None:
    members = samples(8)
    whole = write_tar(tmp_path / "whole.tar", members)
    length = build_index(whole, KNOWN).offsets.max() + 512 - drop
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: int(length)])
    index = build_index(cut, KNOWN)
    assert "truncated or damaged archive" in index.problems
    assert 0 < len(index) < 8
    assert (index.offsets >= 0).all()  # every sample that is left has all its files
    assert (index.offsets + index.lengths <= length).all()


def test_damaged_header_is_flagged(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", samples(6))
    data = bytearray(shard.read_bytes())
    start = int(build_index(shard, KNOWN).offsets[3].min()) - 512
    data[start : start + 512] = b"\xaa" * 512
    shard.write_bytes(bytes(data))
    index = build_index(shard, KNOWN)
    assert len(index) == 3
    assert index.problems["truncated or damaged archive"] == 1


def test_interleaved_members_are_regrouped_and_counted(tmp_path: Path) -> None:
    members = [("a.png", b"A"), ("b.png", b"B"), ("a.txt", b"ta"), ("b.txt", b"tb")]
    index = build_index(write_tar(tmp_path / "a.tar", members), KNOWN)
    assert len(index) == 2 and (index.offsets >= 0).all()
    assert index.problems == {"interleaved member (regrouped)": 2}


def test_first_of_duplicate_members_is_kept(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.png", b"first"), ("a.png", b"second!")])
    assert Shards([shard], COLUMNS, cache=False).read(0, "image", 100) == b"first"
    assert build_index(shard, KNOWN).problems == {"duplicate member (first kept)": 1}


def test_links_and_devices_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("x.png", tarfile.SYMTYPE),
            ("y.png", tarfile.CHRTYPE),
            ("z.png", tarfile.LNKTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    index = build_index(path, KNOWN)
    assert len(index) == 0 and index.problems == {"link or device (ignored)": 3}


def test_apples_hidden_files_are_ignored(tmp_path: Path) -> None:
    index = build_index(write_tar(tmp_path / "a.tar", [("._a.png", b"x"), ("a.png", b"y")]), KNOWN)
    assert [index.key(0)] == ["a"] and index.problems == {"hidden member": 1}


def test_unusable_shards_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", samples(2))
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_bytes(b"not a tar file" * 100)
    empty = write_tar(tmp_path / "empty.tar", [])
    shards = Shards([tmp_path / "zero.tar", good, tmp_path / "text.tar", empty], COLUMNS)
    assert len(shards) == 2
    named = shards.problems()["unreadable shard (skipped)"]
    assert any("zero.tar" in place for place in named) and any("text.tar" in place for place in named)


def test_nothing_usable_is_an_error_that_names_what_was_found(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.exr", b"x")])
    with pytest.raises(DataError, match=r"found: exr"):
        Shards([shard], COLUMNS)
    with pytest.raises(DataError, match=r"missing\.tar: no such shard"):
        Shards([tmp_path / "missing.tar"], COLUMNS)


def test_shards_are_numbered_through(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{part}.tar", samples(3, 3 * part)) for part in range(3)]
    shards = Shards(paths, COLUMNS)
    copy = pickle.loads(pickle.dumps(shards))
    for number in (8, 0, 3, 5, 2):
        for reader in (shards, copy):
            assert reader.key(number) == f"{number:05}"
            assert reader.read(number, "text", 1000) == f"caption {number}".encode()
    with pytest.raises(IndexError):
        shards.key(9)
    with pytest.raises(BadSample, match="too large"):
        shards.read(0, "image", 5)


def test_more_shards_than_open_files(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{part:02}.tar", [(f"{part}.txt", b"%d" % part)]) for part in range(40)]
    shards = Shards(paths, COLUMNS, cache=False)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(2):
        assert [shards.read(number, "text", 10) for number in range(40)] == [b"%d" % n for n in range(40)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 32


def test_shard_changed_after_indexing_stops_the_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    shards = Shards([path], COLUMNS)
    assert shards.read(0, "text", 100) == b"caption 0"
    write_tar(path, samples(5, 10))
    with pytest.raises(DataError, match=r"a\.tar changed"):
        shards.read(1, "text", 100)


def test_failing_reads_are_tried_again_then_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards([write_tar(tmp_path / "a.tar", samples(2))], COLUMNS)
    waits: list[float] = []
    monkeypatch.setattr("vtp_plugins.tar_shards.shards.time.sleep", waits.append)
    real, failures = os.pread, [3]

    def flaky(handle: int, length: int, offset: int) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error")
        return real(handle, length, offset)

    monkeypatch.setattr("vtp_plugins.tar_shards.shards.os.pread", flaky)
    assert shards.read(1, "text", 100) == b"caption 1"
    assert len(waits) == 3 and waits[0] < waits[1] < waits[2]
    failures[0] = 100
    with pytest.raises(BadSample, match="unreadable"):
        shards.read(1, "text", 100)
