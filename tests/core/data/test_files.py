"""The files below a folder: links, loops, folders that can't be opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vtp_core.cli.encode import find_images
from vtp_core.data.files import files_below
from vtp_core.errors import DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def below(root: Path) -> tuple[list[str], dict[str, list[str]]]:
    problems: dict[str, list[str]] = {}
    return sorted(files_below(root, (".png",), problems)), problems


def test_names_and_what_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.PNG", "b/c/d.png", "b/x.txt", "b/._e.png", ".git/f.png", ".png", "b/.DS_Store")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found, problems = below(tmp_path)
    assert found == ["a.PNG", "b/c/d.png", "gone.png"]
    assert {what: sorted(places) for what, places in problems.items()} == {
        "hidden file (skipped)": [".png", "b/._e.png"]
    }


def test_links_are_followed_once_and_real_folders_first(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", "o.png", "deep/p.png")
    root = make(tmp_path / "root", "z/i.png")
    (root / "a").symlink_to(root / "z")
    (root / "b").symlink_to(outside)
    (root / "c").symlink_to(outside / "deep")
    (outside / "up").symlink_to(tmp_path / "root")
    found, problems = below(root)
    assert found == ["b/deep/p.png", "b/o.png", "z/i.png"]
    assert problems == {"linked folder that was read already (skipped)": ["a", "c", "b/up"]}
    assert [path.relative_to(root).as_posix() for path in find_images((root,))] == found


def test_a_folder_that_can_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.png", "b/y.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("vtp_core.data.files.os.scandir", scandir)
    assert below(tmp_path) == (["b/y.png"], {"unreadable folder (skipped)": ["a: Permission denied"]})
    with pytest.raises(DataError, match="1 folders in it can't be read; the first: a: Permission denied"):
        find_images((tmp_path,))
