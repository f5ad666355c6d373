"""The source `image_folder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from tests.core.data.making import encoded, noise
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.run.records import RunFolder
from vtp_core.testing import check_source
from vtp_plugins.image_folder.config import ImageFolderConfig
from vtp_plugins.image_folder.source import ImageFolder


def opened(path: Path, **options: object) -> ImageFolder:
    return ImageFolder(ImageFolderConfig(path=str(path), **options), DecodeLimits())


def fill(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(seed=seed)))
    return root


def test_same_files_and_classes_as_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Reference

    fill(tmp_path, "dog/b.png", "cat/x/1.PNG", "cat/a.png", "bird/2.png")
    ours, theirs = opened(tmp_path), Reference(str(tmp_path))
    assert list(ours.classes) == theirs.classes
    expected = sorted((Path(path).relative_to(tmp_path).as_posix(), label) for path, label in theirs.samples)
    read = [ours.read(index, ours.fields) for index in range(len(ours))]
    assert [(sample.key, sample.label) for sample in read] == expected
    numpy.testing.assert_array_equal(read[-1].image, noise(seed=0))


def test_flat_folder_has_no_classes_and_captions_beside_images(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.v2.png")
    (tmp_path / "b.txt").write_text("a bird", encoding="utf-8-sig")
    (tmp_path / "c.v2.txt").write_text("a cat", encoding="utf-16")
    source = opened(tmp_path)
    assert source.classes == () and source.fields == {"image", "text"}
    assert [source.read(index, frozenset({"text"})).text for index in (1, 2)] == ["a bird", "a cat"]
    with pytest.raises(BadSample, match="no caption"):
        source.read(0, frozenset({"text"}))


@pytest.mark.parametrize(
    "captioned, has, problem",
    [
        (range(1, 20), True, {"sample without a caption": "1 of 20"}),
        (range(20), True, {}),
        (range(1), False, {"not used: few samples have a caption": "1 of 20"}),
        (range(10), False, {"not used: few samples have a caption": "10 of 20"}),
        ((), False, {}),
    ],
)
def test_most_images_decide_whether_there_are_captions(
    tmp_path: Path, captioned: Sequence[int], has: bool, problem: dict[str, str]
) -> None:
    fill(tmp_path, *(f"{number:02}.png" for number in range(20)))
    for number in captioned:
        (tmp_path / f"{number:02}.txt").write_text("x")
    source = opened(tmp_path)
    assert ("text" in source.fields) == has
    assert source.problems() == {what: [f"{tmp_path}: {count}"] for what, count in problem.items()}


def test_linked_class_folders_are_followed_as_by_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Reference

    fill(tmp_path / "full", "a/x.png", "b/y.png", "c/z.png")
    (tmp_path / "subset").mkdir()
    for name in "ac":
        (tmp_path / "subset" / name).symlink_to(tmp_path / "full" / name)
    source, theirs = opened(tmp_path / "subset"), Reference(str(tmp_path / "subset"))
    assert list(source.classes) == theirs.classes and source.problems() == {}
    read = [source.read(index, source.fields) for index in range(len(source))]
    assert [(sample.key, sample.label) for sample in read] == [("a/x.png", 0), ("c/z.png", 1)]
    assert ImageFolderConfig.recognise(str(tmp_path / "subset")) is not None


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path, "cat/x.png", "dog/y.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "dogs").symlink_to(tmp_path / "dog")
    (tmp_path / "alias").symlink_to(tmp_path / "cat")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    source = opened(tmp_path)
    assert source.classes == ("cat", "dog") and len(source) == 2
    (skipped,) = source.problems().values()
    assert sorted(skipped) == ["alias", "cat/dogs", "cat/up"]


@pytest.mark.parametrize("run", ["runs/first", "runs", "."])
def test_pictures_of_runs_in_the_folder_are_no_data(tmp_path: Path, run: str) -> None:
    fill(tmp_path, "cat/x.png", "dog/y.png")
    before = opened(tmp_path)
    folder = RunFolder(tmp_path / run)
    fill(folder.path, "samples/00000-input.png")
    folder.tokenizer.mkdir()
    folder.write_recipe("schema = 1")
    after = opened(tmp_path)
    assert len(after) == len(before) and after.classes == before.classes == ("cat", "dog")
    assert set(after.problems()) == {"folder of a run (skipped)"}


def test_caption_template(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.png")
    source = opened(tmp_path, caption="a photo of a {class}")
    assert source.read(0, frozenset({"text"})).text == "a photo of a dog"
    with pytest.raises(DataError, match="not in class folders"):
        opened(fill(tmp_path / "flat", "a.png"), caption="a {class}")


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.png")
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="1 class folders have no image: cat"):
        opened(tmp_path)


def test_listed_classes_are_read_in_their_order(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.png", "cat/a.png", "cat/x/c.png", "bird/d.png", "top.png")
    (tmp_path / "notes").mkdir()
    source = opened(tmp_path, classes=["dog", "cat"])
    assert source.classes == ("dog", "cat")
    read = [source.read(index, source.fields) for index in range(len(source))]
    assert [(sample.key, sample.label) for sample in read] == [
        ("cat/a.png", 1),
        ("cat/x/c.png", 1),
        ("dog/b.png", 0),
    ]
    check_source(source)
    with pytest.raises(DataError, match="1 class folders have no image: notes"):
        opened(tmp_path, classes=["dog", "notes"])


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], ["cat/x"], ["../cat"], [".cat"], [""]])
def test_classes_are_folders_directly_below(tmp_path: Path, classes: list[str]) -> None:
    fill(tmp_path, "cat/a.png")
    with pytest.raises(ValueError, match="classes"):
        opened(tmp_path, classes=classes)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="no file ends in"):
        opened(tmp_path)


def test_hidden_files_are_passed_over_and_removed_ones_are_bad(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "._a.png", ".cache/b.png")
    source = opened(tmp_path)
    assert len(source) == 1 and source.problems() == {"hidden file (skipped)": ["._a.png"]}
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadSample, match="unreadable"):
        source.read(0, frozenset({"image"}))


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("dog/b.png", "cat/x/1.png", "cat/a.png")])
def test_it_keeps_the_rules_of_sources(names: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, *names)
    for name in names:
        (tmp_path / name).with_suffix(".txt").write_text(f"picture {name}")
    source = opened(tmp_path)
    assert source.fields == {"image", "text", *(["label"] if len(names) == 3 else [])}
    check_source(source)
