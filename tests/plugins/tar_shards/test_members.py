"""Hostile and damaged tar files: read in bounded time and memory, each damage one named problem."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.data.making import samples, write_tar
from vtp_plugins.tar_shards.index import build_index
from vtp_plugins.tar_shards.members import members
from vtp_plugins.tar_shards.shards import Shards

KNOWN = ["png", "txt", "cls"]
CUT = "truncated or damaged archive"
LONG = "long-named member (ignored)"
OTHER = "link or device (ignored)"
END = bytes(1024)


def header(name: str, size: int | bytes = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header block; a size in bytes is the field itself."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size if isinstance(size, int) else 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if isinstance(size, bytes):
        block[124:136] = size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


def pax(*records: bytes) -> bytes:
    """An extended header; each record is `key=value`."""
    body = b""
    for record in records:
        length = len(record) + 2
        length += len(str(length + len(str(length))))
        body += b"%d %s\n" % (length, record)
    return member("pax", body, tarfile.XHDTYPE)


def base_256(value: int) -> bytes:
    return (b"\x80" if value >= 0 else b"\xff") + (value % (1 << 88)).to_bytes(11, "big")


GOOD = member("a.png") + member("a.txt")
DAMAGED = {
    "negative_size": header("b.png", base_256(-512)),
    "negative_octal_size": header("b.png", b"-0000000777\0"),
    "huge_base_256_size": header("b.png", base_256(2**87)),
    "declared_past_the_end": header("b.png", 8**10) + b"x" * 512,
    "negative_size_of_a_long_name": header("././@LongLink", base_256(-512), tarfile.GNUTYPE_LONGNAME),
    "huge_size_of_a_pax_header": header("x", base_256(2**62), tarfile.XHDTYPE),
    "negative_size_in_a_pax_header": pax(b"size=-1000000000") + header("b.png"),
    "pax_size_of_5000_digits": pax(b"size=" + b"9" * 5000) + header("b.png"),
    "pax_record_of_no_length": member("x", b"0 size=1\n" * 5, tarfile.XHDTYPE) + header("b.png"),
    "pax_record_past_its_end": member("x", b"99 size=1\n", tarfile.XHDTYPE) + header("b.png"),
    "pax_header_at_the_end": pax(b"path=b.png"),
    "endless_map_of_a_sparse_file": header("b.png", 0, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29),
    "noise": b"\xaa" * 512,
}


def index_of(folder: Path, *parts: bytes):
    path = folder / "a.tar"
    path.write_bytes(b"".join(parts))
    return build_index(path, KNOWN)


@pytest.mark.parametrize("name", DAMAGED)
def test_each_damage_is_one_named_problem(tmp_path: Path, name: str) -> None:
    index = index_of(tmp_path, member("0.png"), member("0.txt"), GOOD, DAMAGED[name], END)
    assert [index.key(row) for row in range(len(index))] == ["0", "a"]
    assert index.problems == {CUT: 1}


def test_an_endless_map_is_followed_to_the_end_of_the_file(tmp_path: Path) -> None:
    block = bytearray(header("s.png", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    index = index_of(tmp_path, GOOD, bytes(block), *[bytes(504) + b"\1" + bytes(7)] * 50)
    assert index.problems[CUT] == 1
    index = index_of(
        tmp_path, GOOD, bytes(block), bytes(504) + b"\1" + bytes(7), bytes(512), member("b.png"), END
    )
    assert len(index) == 2 and index.problems == {OTHER: 1}


def test_a_concatenated_archive_is_read_on(tmp_path: Path) -> None:
    """As ``cat a.tar b.tar > c.tar`` makes it."""
    first = write_tar(tmp_path / "1.tar", samples(3)).read_bytes()
    second = write_tar(tmp_path / "2.tar", samples(2, 3), tarfile.PAX_FORMAT).read_bytes()
    index = index_of(tmp_path, first, second)
    assert [index.key(row) for row in range(len(index))] == [f"{row:05}" for row in range(5)]
    assert index.problems == {}
    shards = Shards([tmp_path / "a.tar"], {"text": ["txt"]}, cache=False)
    assert shards.read(4, "text", 100) == b"caption 4"


def test_archives_that_follow_each_other_may_have_the_same_keys(tmp_path: Path) -> None:
    first, second = (member("0.png") + member("0.txt", text) for text in (b"one", b"two"))
    path = tmp_path / "a.tar"
    path.write_bytes(first + END + second + END)
    for _ in range(2):  # built, and read from the sidecar
        shards = Shards([path], {"text": ["txt"]})
        assert [shards.key(row) for row in range(2)] == ["0", "0"] and not shards.problems()
        assert [shards.read(row, "text", 100) for row in range(2)] == [b"one", b"two"]


def test_what_follows_the_end_and_is_no_archive_is_named(tmp_path: Path) -> None:
    assert index_of(tmp_path, GOOD, END, bytes(9000)).problems == {}
    assert index_of(tmp_path, GOOD, END, bytes(100)).problems == {}
    assert index_of(tmp_path, member("0.png"), GOOD, END, b"\xaa" * 600).problems == {CUT: 1}
    path = tmp_path / "sparse.tar"
    path.write_bytes(member("0.png") + GOOD + END)
    os.truncate(path, 1 << 40)  # a terabyte of zeros
    assert build_index(path, KNOWN).problems == {CUT: 1}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_of_a_gigabyte_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    size = 1_500_000_256
    path.write_bytes(GOOD + header("x", size, kind))
    with path.open("r+b") as file:
        file.seek(len(GOOD) + 512 + size)
        file.write(member("b.png") + member("c.png") + END)
    tracemalloc.start()
    index = build_index(path, KNOWN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6
    assert [index.key(row) for row in range(len(index))] == ["a", "c"]
    assert index.problems == {LONG: 1}


def test_many_extensions_take_no_more_memory_than_few(tmp_path: Path) -> None:
    index = index_of(tmp_path, GOOD, *(header(f"f{row}.x{row}") for row in range(5_000)), END)
    assert index.extensions == ("png", "txt") and index.offsets.nbytes == 5_001 * 2 * 8
    assert len(index.others) <= 65 and sum(index.others.values()) == 5_000
    assert all(len(name) < 30 for name in index.others)


def test_a_long_key_widens_no_other(tmp_path: Path) -> None:
    name = "k" * 1000
    index = index_of(
        tmp_path, *(header(f"{row:05}.png") for row in range(10_000)), pax(b"path=%s.png" % name.encode()),
        header("short.png"), END
    )  # fmt: skip
    assert index.key(10_000) == name and index.key(77) == "00077"
    assert index.keys.data.nbytes == 10_000 * 6 + 1001


def test_names_are_those_of_tarfile(tmp_path: Path) -> None:
    """Long names in each format, names that are not UTF-8, sizes over 8 GiB, folders, links."""
    path = tmp_path / "a.tar"
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open(path, "w", format=format, errors="surrogateescape") as archive:
            for name in ("a/b.png", "\xe9.png", "z\udce9.png", "d" * 90 + "/" + "n" * 60 + ".png"):
                info = tarfile.TarInfo(name)
                info.size = 700
                archive.addfile(info, io.BytesIO(bytes(700)))
            for name, kind in (("folder", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "l" * 150 if format != tarfile.USTAR_FORMAT else "l"
                archive.addfile(info)
        with tarfile.open(path) as archive, path.open("rb") as file:
            expected = [
                (info.name, info.offset_data, info.size, info.isreg(), info.isdir()) for info in archive
            ]
            found = [
                (item.name, item.offset, item.size, item.kind == "file", item.kind == "folder")
                for item in members(file)
            ]
        assert found == expected


@given(st.data())
def test_any_damage_ends_with_a_problem_or_changes_nothing_that_is_read(data: st.DataObject) -> None:
    """Bytes of headers replaced, the file cut or continued: only tar errors, and members within the file."""
    content = bytearray(
        GOOD
        + pax(b"path=b.png", b"size=3")
        + member("x", b"abc")
        + header("s", 0, tarfile.GNUTYPE_SPARSE)
        + END
    )
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # a checksum that is right makes parsing go further
        for start in range(0, len(content), 512):
            block = content[start : start + 512]
            if any(block):
                block[148:156] = b" " * 8
                content[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    content = content[: data.draw(st.integers(0, len(content)))]
    with tempfile.TemporaryFile() as file:
        file.write(content)
        try:
            for item in members(file):  # type: ignore[arg-type]
                assert item.offset >= 512 and item.size >= 0
                assert item.kind != "file" or item.offset + item.size <= len(content)
        except tarfile.TarError:
            pass


def test_an_empty_file_and_another_kind_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"short", b"\x1f\x8b" * 1000, b"text" * 1000):
        with pytest.raises(tarfile.ReadError):
            index_of(tmp_path, content)
    assert len(index_of(tmp_path, bytes(10240))) == 0
