"""environment.json, the run lock and the progress display."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from importlib import metadata
from types import SimpleNamespace

import pytest
import scipy
import torch
from filelock import FileLock
from rich.console import Console

import vtp_core
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins, hookimpl
from vtp_core.run.environment import describe_environment
from vtp_core.run.processes.lock import locked
from vtp_core.run.progress import RunProgress
from vtp_core.run.records import RunFolder

HOLDER = """
import sys, time
from vtp_core.run.processes.lock import locked
from vtp_core.run.records import RunFolder
with locked(RunFolder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_environment_names_versions_and_choices(tmp_path):
    found = describe_environment(
        Plugins(), device=torch.device("cpu"), world_size=2, kernels={"attention": "torch"}
    )
    RunFolder(tmp_path).write_environment(found)
    read = json.loads((tmp_path / "environment.json").read_text())
    assert torch.__version__.startswith(read["packages"]["torch"]) and read["packages"]["numpy"]
    assert (read["world_size"], read["kernels"], read["device"]) == (2, {"attention": "torch"}, "cpu")
    assert read["threads"] == torch.get_num_threads()
    assert "earlier" not in read


def test_the_packages_are_those_that_the_plugins_require(tmp_path, monkeypatch):
    info = tmp_path / "vtp_plugin_foo-0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vtp-plugin-foo\nVersion: 0.2\n"
        "Requires-Dist: scipy\nRequires-Dist: no-such-package-of-ours>=2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins = Plugins()
    hook = hookimpl(specname="register_sources")(lambda register: None)
    plugins.add(SimpleNamespace(vtp_api=2, hook=hook), "foo", distribution="vtp-plugin-foo", version="0.2")
    packages = describe_environment(plugins, device=torch.device("cpu"), world_size=1, kernels={})["packages"]
    assert packages["vtp-plugin-foo"] == "0.2" and packages["vtp-core"] == vtp_core.__version__
    assert packages["scipy"] == scipy.__version__ and packages["no-such-package-of-ours"] is None
    required = {re.match(r"[\w.-]+", line)[0] for line in metadata.requires("vtp-core") if ";" not in line}
    assert required <= packages.keys()


def test_an_earlier_environment_stays_if_it_differs(tmp_path):
    for environment in ({"torch": "1"}, {"torch": "1"}, {"torch": "2"}, {"torch": "3"}):
        RunFolder(tmp_path).write_environment(environment)
    read = json.loads((tmp_path / "environment.json").read_text())
    assert read == {"torch": "3", "earlier": [{"torch": "1"}, {"torch": "2"}]}


@pytest.mark.parametrize(
    "damage",
    ['{"torch": "1"', "\x00\x00", "[1]", '{"torch": NaN}', '{"torch": "1", "earlier": 3}', "[" * 100_000],
    ids=range(6),
)
def test_a_damaged_environment_is_named_and_written_anew(tmp_path, caplog, damage):
    (tmp_path / "environment.json").write_text(damage)
    RunFolder(tmp_path).write_environment({"torch": "2"})
    read = json.loads((tmp_path / "environment.json").read_text())
    assert read["torch"] == "2" and read.get("earlier", [{"torch": "1"}]) == [{"torch": "1"}]
    (warning,) = caplog.messages
    assert "environment.json" in warning and "earlier starts" in warning


def test_a_second_run_on_a_folder_is_refused_until_the_first_is_killed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        for _ in range(2):  # the first attempt leaves the holder's name readable
            with (
                pytest.raises(
                    UsageError, match=rf"another run holds this folder \(process {process.pid} on "
                ) as caught,
                locked(folder),
            ):
                pass
        assert caught.value.exit_code == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    with locked(folder):
        assert json.loads(folder.lock_holder.read_text())["pid"] == os.getpid()
        folder.recipe.touch()
        with pytest.raises(UsageError, match=f"process {os.getpid()} "), locked(folder):
            pass
    with locked(folder):
        pass
    assert folder.exists() and not folder.lock_holder.exists()


def test_a_folder_without_anything_is_removed_when_it_is_released(tmp_path):
    with locked(RunFolder(tmp_path / "run")):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["before the release", "after the release"])
def test_a_start_that_frees_the_folder_never_makes_two_holders(tmp_path, monkeypatch, when):
    """Another start takes the folder while the first one frees it; then a third one is refused."""
    folder, release = RunFolder(tmp_path / "run"), FileLock.release
    with ExitStack() as others:

        def other_start(lock, *arguments, **options):
            monkeypatch.setattr(FileLock, "release", release)
            if when == "after the release":
                release(lock, *arguments, **options)
            others.enter_context(locked(folder))
            release(lock, *arguments, **options)

        with locked(folder):
            monkeypatch.setattr(FileLock, "release", other_start)
        assert folder.lock.exists()
        with pytest.raises(UsageError, match="another run holds this folder"), locked(folder):
            pass
    assert not folder.path.exists()


def test_a_start_waits_out_a_folder_that_is_being_removed(tmp_path, monkeypatch):
    folder, plain = RunFolder(tmp_path / "run"), RunFolder.require_plain
    removed = []

    def remove_once(self):
        plain(self)
        if not removed:
            removed.append(self.path.rmdir())

    monkeypatch.setattr(RunFolder, "require_plain", remove_once)
    with locked(folder):
        assert folder.lock.exists() and removed


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(RunFolder(tmp_path / "run")):
        pass
    (warning,) = [record.message for record in caplog.records if record.name.startswith("vtp_core")]
    assert f"{tmp_path / 'run/.lock'}: no lock (" in warning and os.strerror(number) in warning


def test_a_killed_process_frees_the_folder_though_a_process_that_it_forked_lives(tmp_path):
    # The child prints: its descriptor of the lock is closed by then, by a hook that runs after the fork.
    script = HOLDER.replace('print("held", flush=True)', 'os.fork() or print("held", flush=True)')
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("import sys", "import os, sys"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.kill()
        process.wait(timeout=30)
        os.killpg(process.pid, 0)  # the forked process lives
        with locked(RunFolder(tmp_path)):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=100, highlight=False, soft_wrap=True), stream


def test_plain_lines_away_from_a_terminal():
    where, stream = console(terminal=False)
    with RunProgress(20, 10, where) as progress:
        assert progress.left(10) == "?"
        progress.step(11)
        progress.log(12, 1.23456, 512.4)
        progress.message("step 13 was skipped: [clip]")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 12/20  loss 1.2346  512 rows/s  left 0:00:0")
    assert second == "step 13 was skipped: [clip]"


def test_a_bar_on_a_terminal():
    where, stream = console(terminal=True)
    with RunProgress(20, 0, where) as progress:
        progress.log(20, 0.5, 100.0)
    assert "20/20" in stream.getvalue() and "loss 0.5000" in stream.getvalue()
    assert "step 20/20" not in stream.getvalue()


@pytest.mark.parametrize("name", [".lock", ".lock.json", "metrics.jsonl", "quarantine-0.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_place_of_files_that_a_run_writes_are_refused(tmp_path, name, kind):
    (tmp_path / "run").mkdir()
    target = tmp_path / "target"
    target.write_text("kept")
    path = tmp_path / "run" / name
    path.symlink_to(target) if kind == "link" else os.mkfifo(path)
    with pytest.raises(UsageError, match=re.escape(name) + " is (a symbolic link|not a plain file)"):
        with locked(RunFolder(tmp_path / "run")):
            pass
    assert target.read_text() == "kept"


def test_a_start_sweeps_what_a_killed_writer_left(tmp_path):
    folder = RunFolder(tmp_path / "run")
    left = [folder.path / ".tokenizer.abcdefgh.tmp/new", folder.samples / ".x.abcdefgh.tmp/new"]
    for path in left:
        path.mkdir(parents=True)
    (folder.path / ".eval.json.01234567.tmp").touch()
    with locked(folder):
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock", ".lock.json", "samples"]
    assert not any(folder.samples.iterdir())
