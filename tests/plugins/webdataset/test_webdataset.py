"""The source `webdataset`: layouts people have, and faults that are named."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from pydantic import ValidationError

from tests.core.data.making import encoded, noise, samples, write_tar
from tests.pickled_code import PickledCode
from vtp_core.data.latent_file import decode_latent
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.testing import check_source
from vtp_plugins.webdataset.config import WebDatasetConfig
from vtp_plugins.webdataset.source import WebDataset
from vtp_plugins.webdataset.urls import expand, find_shards

ALL = frozenset({"image", "text", "label"})


def opened(path: Path | str, **options: object) -> WebDataset:
    return WebDataset(WebDatasetConfig(urls=str(path), **options), DecodeLimits())


def shard(folder: Path, *members: tuple[str, bytes]) -> Path:
    return write_tar(folder / "a.tar", members)


def png(seed: int = 0) -> bytes:
    return encoded(noise(seed=seed))


# The library leaves the files open that it has read.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_same_samples_as_the_webdataset_library(tmp_path: Path) -> None:
    import webdataset

    paths = [write_tar(tmp_path / f"{part:05}.tar", samples(4, 4 * part)) for part in range(3)]
    theirs = [
        item
        for path in paths
        for item in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode("rgb8")
    ]
    ours = opened(tmp_path / "{00000..00002}.tar")
    assert len(ours) == len(theirs) == 12
    for index, item in enumerate(theirs):
        sample = ours.read(index, ALL)
        assert sample.key == item["__key__"]
        assert sample.text == item["txt"] and sample.label == int(item["cls"])
        numpy.testing.assert_array_equal(sample.image, item["png"])
    assert [ours.image_bytes(index) for index in range(12)] == [
        len(dict(samples(1, index))[f"{theirs[index]['__key__']}.png"]) for index in range(12)
    ]


def test_fields_in_json(tmp_path: Path) -> None:
    record = json.dumps({"text": "a cat", "cls": 1, "url": "x"}).encode()
    source = opened(shard(tmp_path, ("a.png", png()), ("a.json", record)), classes=("dog", "cat"))
    assert source.fields == ALL
    sample = source.read(0, ALL)
    assert (sample.text, sample.label) == ("a cat", 1)


def test_class_by_name_and_caption_templates(tmp_path: Path) -> None:
    record = json.dumps({"label": "cat", "text": "Tom."}).encode()
    path = shard(tmp_path, ("a.png", png()), ("a.json", record))
    source = opened(path, classes=("dog", "cat"), caption="a photo of a {class}")
    assert source.read(0, ALL).text == "a photo of a cat" and source.read(0, ALL).label == 1
    both = opened(path, classes=("dog", "cat"), caption="{text} A drawing of {class}.")
    assert both.read(0, frozenset({"text"})).text == "Tom. A drawing of cat."


@pytest.mark.parametrize(
    ("extension", "data", "label"),
    [
        ("cls", b"9", 9),  # a label file holds an index, and index 9 is the digit 0
        ("cls", b"0", 0),
        ("cls", b"ten", 10),
        ("json", b'{"label": 9}', 9),
        ("json", b'{"label": "0"}', 9),  # text is a name
        ("json", b'{"label": "10"}', 10),  # of no class, so an index
    ],
)
def test_names_of_classes_may_be_digits(tmp_path: Path, extension: str, data: bytes, label: int) -> None:
    path = shard(tmp_path, ("a.png", png()), (f"a.{extension}", data))
    assert opened(path, classes=(*"1234567890", "ten")).read(0, frozenset({"label"})).label == label


def test_dotted_keys_keep_their_image(tmp_path: Path) -> None:
    source = opened(shard(tmp_path, ("img.v1.png", png()), ("img.v1.txt", b"one"), ("img.v2.png", png(1))))
    assert len(source) == 2 and source.read(0, ALL - {"label"}).key == "img.v1"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_masks_are_named_and_not_trained_on(tmp_path: Path, extension: str) -> None:
    import webdataset

    members = [("d.x/0.seg.png", png(1))]
    for key in ("d.x/0", "d.x/1"):
        members += [(f"{key}.{extension}", png()), (f"{key}.seg.v2.png", png(2)), (f"{key}.json", b"{}")]
    path = shard(tmp_path, *members)
    theirs = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    source = opened(path)
    assert [source.read(row, frozenset()).key for row in range(len(source))] == ["d.x/0", "d.x/1"]
    assert {item["__key__"] for item in theirs} == {"d.x/0", "d.x/1"}
    numpy.testing.assert_array_equal(source.read(0, frozenset({"image"})).image, noise())
    assert source.problems()["part of another sample (not read)"] == [f"{path}: 3, such as d.x/0.seg"]


def test_suffixes_without_a_whole_are_samples(tmp_path: Path) -> None:
    """Two views of one record, and an image with a caption of its own that the other lacks."""
    stereo = [("0.json", b"{}"), ("0.left.png", png()), ("0.right.png", png(1))]
    edited = [("1.png", png()), ("1.edit.png", png(1)), ("1.edit.txt", b"edited")]
    source = opened(shard(tmp_path, *stereo, *edited))
    keys = [source.read(row, frozenset()).key for row in range(len(source))]
    assert keys == ["0", "0.left", "0.right", "1", "1.edit"]


def test_extensions_that_are_to_be_ignored(tmp_path: Path) -> None:
    source = opened(shard(tmp_path, ("a.png", png()), ("a.seg.png", png(1))), ignored=("seg.png",))
    assert len(source) == 1 and source.problems() == {}
    numpy.testing.assert_array_equal(source.read(0, frozenset({"image"})).image, noise())


def records(count: int, has: Sequence[int], **fields: object) -> list[tuple[str, bytes]]:
    """Images with JSON objects; those of `has` have the fields."""
    members = []
    for row in range(count):
        record = {"url": "x", **(fields if row in has else {})}
        members += [(f"{row:03}.png", png()), (f"{row:03}.json", json.dumps(record).encode())]
    return members


@pytest.mark.parametrize(
    "has, fields, problem",
    [
        (range(1, 20), {"image", "text"}, {"sample without a caption": "1 of 20"}),
        (range(20), {"image", "text"}, {}),
        (range(1), {"image"}, {"not used: few samples have a caption": "1 of 20"}),
        ((), {"image"}, {}),
    ],
)
def test_most_samples_decide_which_fields_there_are(
    tmp_path: Path, has: Sequence[int], fields: set[str], problem: dict[str, str]
) -> None:
    path = shard(tmp_path, *records(20, has, caption="a bee"))
    source = opened(path)
    assert source.fields == fields
    assert source.problems() == {what: [f"{path}: {count}"] for what, count in problem.items()}
    files = [member for row in range(20) for member in [(f"{row}.png", png()), (f"{row}.txt", b"x")]]
    assert opened(shard(tmp_path, *(files if has else files[::2]))).fields == {
        "image",
        *(["text"] if has else []),
    }


def test_fields_of_files_and_json_add_up_and_damaged_json_counts_as_none(tmp_path: Path) -> None:
    members = records(300, range(0, 300, 2), text="a", label=3)
    members += [(f"{row:03}.cls", b"1") for row in range(1, 300, 4)]
    members[1] = ("000.json", b"{")
    source = opened(shard(tmp_path, *members))
    assert source.fields == {"image", "label"}
    said = {what: places[0].rpartition(": ")[2] for what, places in source.problems().items()}
    assert said.pop("interleaved member (regrouped)") == "75"
    assert said.keys() == {"sample without a label", "not used: few samples have a caption"}
    assert all(words.endswith("of 256 that were looked at") for words in said.values())


def test_a_disk_that_fails_is_not_asked_for_each_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path, *records(300, range(300), text="a"))
    waits: list[float] = []
    monkeypatch.setattr("vtp_plugins.tar_shards.shards.time.sleep", waits.append)

    def fails(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("vtp_plugins.tar_shards.shards.os.pread", fails)
    with pytest.raises(DataError, match=r"unreadable .*Input/output error.*; 3 samples are so"):
        opened(path)
    assert len(waits) == 9


@pytest.mark.parametrize(
    "record", [b'{"url": "x"}', b'{"url": ', b"null", b"", b"[" * 100_000, b'{"text": 1}']
)
def test_files_have_precedence_and_their_json_is_not_read(tmp_path: Path, record: bytes) -> None:
    members = [("a.png", png()), ("a.txt", b"a bee"), ("a.cls", b"1"), ("a.json", record)]
    source = opened(shard(tmp_path, *members))
    sample = source.read(0, frozenset({"text", "label"}))
    assert (sample.text, sample.label) == ("a bee", 1)


def test_one_file_and_the_rest_from_json(tmp_path: Path) -> None:
    record = json.dumps({"text": "from json", "caption": "second", "cls": None, "label": 7}).encode()
    source = opened(shard(tmp_path, ("a.png", png()), ("a.cls", b"1"), ("a.json", record)))
    sample = source.read(0, frozenset({"text", "label"}))
    assert (sample.text, sample.label) == ("from json", 1)
    source = opened(shard(tmp_path, ("a.png", png()), ("a.txt", b"a file"), ("a.json", record)))
    sample = source.read(0, frozenset({"text", "label"}))
    assert (sample.text, sample.label) == ("a file", 7)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, coding: str) -> None:
    members = [("a.png", png()), ("a.txt", "bé".encode(coding)), ("a.cls", "1".encode(coding))]
    members += [("b.png", png()), ("b.json", '{"text": "bé", "cls": 1}'.encode(coding))]
    source = opened(shard(tmp_path, *members))
    for row in range(2):
        sample = source.read(row, frozenset({"text", "label"}))
        assert (sample.text, sample.label) == ("bé", 1)


def test_no_image_at_all_names_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 of 1 samples have an image; found members txt \(1\), exr \(1\)"):
        opened(shard(tmp_path, ("a.txt", b"x"), ("a.exr", b"x")))


@pytest.mark.parametrize(
    "members, fields, reason",
    [
        ([("a.txt", b"x")], {"image"}, "no image"),
        ([("a.png", b"")], {"image"}, "empty image"),
        ([("a.png", png()[:200])], {"image"}, "truncated image"),
        ([("a.png", png())], {"text"}, "no caption"),
        ([("a.png", png()), ("a.txt", b"  ")], {"text"}, "no caption"),
        ([("a.png", png())], {"label"}, "no label"),
        ([("a.png", png()), ("a.cls", b"red")], {"label"}, "label is no index"),
        ([("a.png", png()), ("a.json", b"{")], {"text"}, "damaged json"),
        ([("a.png", png()), ("a.json", b"[1]")], {"text"}, "damaged json"),
        ([("a.png", png()), ("a.cls", b"9" * 25)], {"label"}, "label is no index"),
        ([("a.png", png()), ("a.cls", b"9" * 100_000)], {"label"}, "label is no index"),
        ([("a.png", png()), ("a.cls", b"-1")], {"label"}, "label is no index"),
        ([("a.png", png()), ("a.json", b'{"text": "' + b"x" * 5_000_000)], {"text"}, "damaged json"),
        ([("a.png", png()), ("a.latent.npy", b"x")], {"latent"}, "damaged latent"),
    ],
)
def test_bad_samples_have_a_reason(tmp_path: Path, members: list, fields: set[str], reason: str) -> None:
    source = opened(write_tar(tmp_path / "a.tar", [*members, ("good.png", png())]))
    with pytest.raises(BadSample) as error:
        source.read(0, frozenset(fields))
    assert error.value.reason == reason and error.value.key == "a"


def test_label_outside_of_the_classes_stops_with_their_names(tmp_path: Path) -> None:
    source = opened(shard(tmp_path, ("a.png", png()), ("a.cls", b"7")), classes=("dog", "cat"))
    with pytest.raises(DataError, match=r"label 7 is outside of the 2 classes dog, cat"):
        source.read(0, frozenset({"label"}))


def test_pickled_members_never_run(tmp_path: Path) -> None:
    payload = pickle.dumps(PickledCode(tmp_path / "ran"))
    memory = io.BytesIO()
    numpy.save(memory, numpy.array([PickledCode(tmp_path / "ran")], dtype=object), allow_pickle=True)
    members = [("a.png", png())]
    members += [(f"a.{extension}", payload) for extension in ("pkl", "pyd", "pth", "json", "txt", "cls")]
    members += [("a.latent.npy", memory.getvalue())]
    source = opened(shard(tmp_path, *members))
    for name in ("image", "text", "label", "latent"):
        try:
            source.read(0, frozenset({name}))
        except BadSample:
            pass
    assert not (tmp_path / "ran").exists()


def test_cached_latents_are_read(tmp_path: Path) -> None:
    memory = io.BytesIO()
    latent = numpy.arange(24, dtype=numpy.float16).reshape(2, 3, 4)
    numpy.save(memory, latent)
    source = opened(shard(tmp_path, ("a.latent.npy", memory.getvalue())))
    assert source.fields == {"latent"}
    read = source.read(0, frozenset({"latent"})).latent
    assert read is not None and read.dtype == numpy.float32
    numpy.testing.assert_array_equal(read, latent)


def npy(shape: str, descr: str = "<f4", order: str = "False", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def npz() -> bytes:
    memory = io.BytesIO()
    numpy.savez(memory, latent=numpy.zeros((1, 2, 2), "f4"))
    return memory.getvalue()


DAMAGED_LATENTS = {
    "huge": npy("(100000, 100000, 1000)"),
    "overflowing": npy(f"({2**40}, {2**40}, {2**40})"),
    "negative": npy("(-1, 2, 2)"),
    "two_negative": npy("(-1, -1, 2)", data=bytes(8)),
    "no_rows": npy("(0, 2, 2)"),
    "two_dimensions": npy("(2, 2)", data=bytes(16)),
    "whole_numbers": npy("(1, 2, 2)", "<i4", data=bytes(16)),
    "objects": npy("(1, 2, 2)", "|O", data=pickle.dumps(1)),
    "fields": npy("(1, 2, 2)", "[('a', '<f4')]", data=bytes(16)),
    "short": npy("(1, 2, 2)", data=bytes(15)),
    "long": npy("(1, 2, 2)", data=bytes(17)),
    "nan": npy("(1, 1, 1)", data=numpy.float32(numpy.nan).tobytes()),
    "over_float32": npy("(1, 1, 1)", "<f8", data=numpy.float64(1e300).tobytes()),
    "archive": npz(),
    "deep": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000,
    "signs": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"-" * 9000,
    "long_header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100,
    "version": b"\x93NUMPY\x09\x00" + bytes(200),
}


@pytest.mark.parametrize("name", DAMAGED_LATENTS)
def test_damaged_latents_have_a_reason(name: str) -> None:
    with pytest.raises(BadSample) as error:
        decode_latent(DAMAGED_LATENTS[name], "a")
    assert error.value.reason == "damaged latent" and len(str(error.value)) < 200


def test_latents_of_each_layout_are_those_of_numpy() -> None:
    latent = numpy.arange(24, dtype=numpy.float64).reshape(2, 3, 4)
    for stored in (latent, numpy.asfortranarray(latent), latent.astype(">f4"), latent.astype("f2")):
        memory = io.BytesIO()
        numpy.save(memory, stored)
        read = decode_latent(memory.getvalue(), "a")
        assert read.dtype == numpy.float32
        numpy.testing.assert_array_equal(read, latent)


@pytest.mark.parametrize("url", ["pipe:touch ran", "https://host/a.tar", "s3://bucket/a.tar"])
def test_commands_and_remote_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="copy or mount"):
        WebDatasetConfig(urls=url)


@pytest.mark.parametrize("caption", ["a {colour}", "{", "{0}", "{class.x}"])
def test_templates_that_cannot_be_filled_are_refused(caption: str) -> None:
    with pytest.raises(ValidationError, match="caption"):
        WebDatasetConfig(urls="a.tar", caption=caption, classes=("a",))


def test_class_template_needs_classes() -> None:
    with pytest.raises(ValidationError, match="classes must name them"):
        WebDatasetConfig(urls="a.tar", caption="a {class}")


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("x{,.old}", ["x", "x.old"]),
        ("a{b", ["a{b"]),
        ("set{1}/{0..1}", ["set{1}/0", "set{1}/1"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert expand(pattern) == expected


def test_absurd_range_is_refused() -> None:
    with pytest.raises(DataError, match="more than"):
        expand("{0..999999999}{0..999999999}")


def test_wildcards_lists_and_repeats(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    found, _ = find_shards([f"{tmp_path}/*.tar", f"{tmp_path}/a.tar"])
    assert [path.name for path in found] == ["a.tar", "b.tar"]


@pytest.mark.parametrize("name", ["cc12m [v2]", "a*b", "x{0..1}", "who?"])
def test_a_path_that_exists_is_a_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    expected = [folder / f"{part}[x].tar" for part in range(3)]
    for path in expected:
        path.touch()
    assert find_shards(str(expected[0])) == (expected[:1], [])
    assert find_shards(f"{folder}/*.tar") == find_shards(f"{folder}/?[[]x].tar") == (expected, [])
    assert find_shards(f"{folder}/{{0..2}}[[]x].tar") == (expected, [])
    with pytest.raises(DataError, match="1 shards are missing"):
        find_shards(f"{folder}/{'n' * 300}.tar")


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"9 shards are missing: .*1\.tar.*and 4 more; .*allow_missing"):
        find_shards(f"{tmp_path}/{{0..9}}.tar")
    found, missing = find_shards(f"{tmp_path}/{{0..9}}.tar", allow_missing=True)
    assert len(found) == 1 and len(missing) == 9
    with pytest.raises(DataError, match="missing"):
        find_shards(f"{tmp_path}/none*.tar", allow_missing=True)


def test_real_shard(shared: Path) -> None:
    classes = tuple(json.loads((shared / "data" / "openclipart64-classes.json").read_text()))
    source = opened(shared / "data" / "openclipart64-val.tar", index_cache=False, classes=classes)
    assert len(source) == 215 and source.fields == ALL and source.problems() == {}
    sample = source.read(0, ALL)
    assert sample.image is not None and sample.image.shape == (64, 64, 3)


def test_it_keeps_the_rules_of_sources(tmp_path: Path) -> None:
    memory = io.BytesIO()
    numpy.save(memory, numpy.arange(24, dtype=numpy.float16).reshape(2, 3, 4))
    members = samples(3)
    for index in range(3):
        members.insert(4 * index + 3, (f"{index:05}.latent.npy", memory.getvalue()))
    write_tar(tmp_path / "0.tar", members)
    write_tar(tmp_path / "1.tar", [*samples(2, 3), ("damaged.png", b"x"), ("damaged.txt", b"x")])
    check_source(opened(tmp_path / "0.tar"))
    source = opened(tmp_path / "{0..1}.tar")
    assert len(source) == 6
    check_source(source)
