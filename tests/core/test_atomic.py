"""Files and folders that are replaced: whole or not at all, and what an error leaves."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vtp_core.atomic import open_plain, rename_folder, replacing_file, replacing_folder, sweep, write_text

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


@pytest.mark.parametrize("bytes_", [1, 200_000])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, bytes_):
    path = tmp_path / "report.html"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_text(path, "x" * bytes_)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old" and names(tmp_path) == ["report.html"]


def test_a_device_is_written_to_and_a_pipe_replaced(tmp_path):
    full, pipe = tmp_path / "full", tmp_path / "pipe"
    full.symlink_to("/dev/full")  # a link: if it were replaced, the machine's device would stay
    with pytest.raises(OSError) as caught:
        write_text(full, "x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))
    assert full.is_symlink()
    os.mkfifo(pipe)
    write_text(pipe, "nobody reads")
    assert pipe.read_text() == "nobody reads" and names(tmp_path) == ["full", "pipe"]
    reader, writer = os.pipe()
    write_text(Path(f"/dev/fd/{writer}"), "text")
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"text"


def test_a_full_disk_names_the_folder_and_leaves_the_old_one(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "old").touch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError) as caught, replacing_folder(folder) as new:
            (new / "config.json").write_text("{}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(folder))
    with pytest.raises(OSError) as caught, replacing_folder(folder) as new:
        raise OSError(errno.ENOSPC, "No space left on device", str(new / "heads" / "clip"))
    assert caught.value.filename == str(folder / "heads" / "clip")
    assert names(folder) == ["old"] and names(tmp_path) == ["tokenizer"]


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
    assert [left.name[:8] for left in sweep(tmp_path)] == [".target."]
    assert names(tmp_path) == ["target"]


def test_a_living_writer_and_files_of_others_are_not_swept(tmp_path):
    for name in (".notes.tmp", ".other.txt", "plain.12345678.tmp"):
        (tmp_path / name).touch()
    with replacing_folder(tmp_path / "a"), replacing_file(tmp_path / "b"):
        before = names(tmp_path)
        assert len(before) == 5 and sweep(tmp_path) == [] and names(tmp_path) == before
    assert sweep(tmp_path) == []


def test_a_writer_killed_between_its_renames_loses_nothing(tmp_path):
    scratch = tmp_path / ".model.12345678.tmp"
    (scratch / "old").mkdir(parents=True)
    (scratch / "old" / "kept").touch()
    (scratch / "new").mkdir()
    with replacing_folder(tmp_path / "model") as new:  # too young to be told from one that just begins
        (new / "second").touch()
    assert scratch.is_dir()
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    assert sweep(tmp_path, {"another"}) == [] and sweep(tmp_path, {"model"}) == [scratch]
    assert names(tmp_path / "model") == ["kept"] and names(tmp_path) == ["elsewhere", "model"]


def test_the_next_writer_sweeps(tmp_path):
    scratch = tmp_path / ".model.12345678.tmp"
    scratch.mkdir()
    os.utime(scratch, (1, 1))
    with replacing_folder(tmp_path / "model"):
        assert not scratch.exists()


def test_only_plain_files_are_opened(tmp_path):
    (tmp_path / "file").write_text("text")
    with open_plain(tmp_path / "file") as file:
        assert file.read() == b"text"
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("link", "link is a symbolic link"), ("pipe", "pipe is not a plain file")):
        with pytest.raises(OSError, match=message):
            open_plain(tmp_path / name)
    with pytest.raises(OSError, match="is not a plain file"):
        open_plain(tmp_path)
