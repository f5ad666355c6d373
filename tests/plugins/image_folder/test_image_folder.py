"""The source `image_folder`."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from tests.core.data.making import encoded, noise
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
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
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a bird")
    source = opened(tmp_path)
    assert source.classes == () and source.fields == {"image", "text"}
    assert source.read(0, frozenset({"text"})).text == "a bird"
    with pytest.raises(BadSample, match="no caption"):
        source.read(1, frozenset({"text"}))


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


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="no file ends in"):
        opened(tmp_path)


def test_hidden_files_are_passed_over_and_removed_ones_are_bad(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "._a.png", ".cache/b.png")
    source = opened(tmp_path)
    assert len(source) == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadSample, match="unreadable"):
        source.read(0, frozenset({"image"}))
