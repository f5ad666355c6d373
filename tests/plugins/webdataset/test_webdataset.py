"""The source `webdataset`: layouts people have, and faults that are named."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy
import pytest
from pydantic import ValidationError

from tests.core.data.making import encoded, noise, samples, write_tar
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
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


def test_dotted_keys_keep_their_image(tmp_path: Path) -> None:
    source = opened(shard(tmp_path, ("img.v1.png", png()), ("img.v1.txt", b"one"), ("img.v2.png", png(1))))
    assert len(source) == 2 and source.read(0, ALL - {"label"}).key == "img.v1"


def test_extensions_that_are_to_be_ignored(tmp_path: Path) -> None:
    path = shard(tmp_path, ("a.png", png()), ("a.seg.png", png(1)))
    assert len(opened(path)) == 2
    source = opened(path, ignored=("seg.png",))
    assert len(source) == 1
    numpy.testing.assert_array_equal(source.read(0, frozenset({"image"})).image, noise())


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


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_members_never_run(tmp_path: Path) -> None:
    payload = pickle.dumps(_Payload(tmp_path / "ran"))
    memory = io.BytesIO()
    numpy.save(memory, numpy.array([_Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
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
    found = find_shards([f"{tmp_path}/*.tar", f"{tmp_path}/a.tar"])
    assert [path.name for path in found] == ["a.tar", "b.tar"]


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"9 shards are missing: .*1\.tar.*and 4 more; .*allow_missing"):
        find_shards(f"{tmp_path}/{{0..9}}.tar")
    assert len(find_shards(f"{tmp_path}/{{0..9}}.tar", allow_missing=True)) == 1
    with pytest.raises(DataError, match="missing"):
        find_shards(f"{tmp_path}/none*.tar", allow_missing=True)


def test_real_shard(shared: Path) -> None:
    classes = tuple(json.loads((shared / "data" / "openclipart64-classes.json").read_text()))
    source = opened(shared / "data" / "openclipart64-val.tar", index_cache=False, classes=classes)
    assert len(source) == 215 and source.fields == ALL and source.problems() == {}
    sample = source.read(0, ALL)
    assert sample.image is not None and sample.image.shape == (64, 64, 3)
