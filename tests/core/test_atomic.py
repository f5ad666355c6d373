"""Files and folders that are replaced: whole or not at all, and what an error leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vtp_core.atomic import rename_folder, replacing_file, replacing_folder, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from vtp_core.atomic import {verb}
with {verb}(Path(sys.argv[1])) as new:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_keeps_the_permissions_of_the_process(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text("old")
    before = os.umask(0o027)
    try:
        write_text(path, "new: é\n")
    finally:
        os.umask(before)
    assert path.read_bytes() == "new: é\n".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["eval.json"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "index.npz"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="half"), replacing_file(path) as file:
        file.write(b"ne")
        raise ValueError("half")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["index.npz"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "deep" / "tokenizer"
    for text in ("first", "second"):
        with replacing_folder(folder) as new:
            (new / text).write_text(text)
            assert not (folder / text).exists()
    assert names(folder) == ["second"]
    assert names(tmp_path / "deep") == ["tokenizer"]


def test_an_error_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "samples"
    with replacing_folder(folder) as new:
        (new / "kept").touch()
    with pytest.raises(ValueError, match="half"), replacing_folder(folder) as new:
        (new / "lost").touch()
        raise ValueError("half")
    assert names(folder) == ["kept"]
    assert names(tmp_path) == ["samples"]


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path):
    folder = tmp_path / "tokenizer"
    with replacing_folder(folder) as new:
        (new / "kept").touch()
    with pytest.raises(FileNotFoundError):
        rename_folder(tmp_path / "missing", folder, old=tmp_path / "old")
    with pytest.raises(FileNotFoundError), replacing_folder(folder) as new:
        (new / "lost").touch()
        new.rename(tmp_path / "elsewhere")
    assert names(folder) == ["kept"]


@pytest.mark.parametrize(
    ("verb", "write"),
    [("replacing_file", "new.write(b'half'); new.flush()"), ("replacing_folder", "(new / 'half').touch()")],
)
def test_a_killed_process_leaves_the_old_one(tmp_path, verb, write):
    path = tmp_path / "target"
    if verb == "replacing_file":
        path.write_text("whole")
    else:
        path.mkdir()
        (path / "whole").touch()
    script = KILLED.format(verb=verb, write=write)
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "whole" if path.is_file() else names(path) == ["whole"]
