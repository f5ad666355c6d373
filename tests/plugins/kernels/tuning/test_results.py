"""The file of results: its own key only, written at once, and never trusted."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.errors import UsageError
from vtp_core.ops import (
    AttentionCase,
    AttentionChoice,
    AttentionKernel,
    SearchChoice,
    attention_choice,
)
from vtp_plugins.kernels.tuning import key as keys
from vtp_plugins.kernels.tuning import ranking as rankings
from vtp_plugins.kernels.tuning.key import hash_sources, key_of
from vtp_plugins.kernels.tuning.ranking import ranking
from vtp_plugins.kernels.tuning.results import cache_folder, read_results, results_file, write_results

KEY = {"device": "NVIDIA H200", "driver": "1", "torch": "2", "triton": "3", "cuda": "4", "sources": "5"}
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rankings._warn_once.cache_clear()


def order(**names: list[str]) -> dict[str, Any]:
    """Results in which the named implementations are the order of an operator, whatever the case."""
    return {
        operator: {"device": "cuda", "cases": [{"case": {}, "names": list(names.get(operator, ["x"]))}]}
        for operator in ("attention", "nearest_code")
    }


def test_results_come_back_for_their_key_alone() -> None:
    assert read_results(KEY) is None
    path = write_results(KEY, {"date": "today"})
    assert read_results(KEY) == {"format": 1, "key": KEY, "date": "today"}
    for name in KEY:
        assert read_results(KEY | {name: "other"}) is None
    assert path.parent == cache_folder() / "tuned" and path.name.startswith("nvidia-h200-")
    assert os.listdir(path.parent) == [path.name]


def test_a_user_without_a_home_folder_has_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert read_results(KEY) is None
    with pytest.raises(UsageError, match="set XDG_CACHE_HOME"):
        cache_folder()


def test_the_cache_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache/vtp"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache/vtp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache/vtp"


def test_readers_see_whole_results_while_others_write() -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_results(KEY, {"filler": "x" * 200_000})

    write_results(KEY, {})
    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(read_results(KEY) is not None for _ in range(50))
    finally:
        stop.set()
        thread.join()


def damage(path: Path, how: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good = json.dumps({"format": 1, "key": KEY, **order()})
    match how:
        case "cut":
            path.write_text(good[:-7])
        case "binary":
            path.write_bytes(b"\x80\x81\x82")
        case "empty":
            path.touch()
        case "deep":
            path.write_text("[" * 100_000)
        case "large":
            path.write_text(good + " " * 2**20)
        case "list":
            path.write_text("[]")
        case "other key":
            path.write_text(json.dumps({"format": 1, "key": KEY | {"driver": "0"}}))
        case "other format":
            path.write_text(good.replace('"format": 1', '"format": 2'))
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)


DAMAGES = (
    "cut", "binary", "empty", "deep", "large", "list", "other key", "other format", "folder", "pipe", "loop",
)  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_file_that_can_not_be_used_is_ignored_with_one_line(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage(results_file(KEY), how)
    with pytest.raises(ValueError, match=r"can't be used \(") as raised:
        read_results(KEY)
    assert str(results_file(KEY)) in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setattr(rankings, "key_of", lambda device: KEY)
    for _ in range(3):
        assert ranking(AttentionChoice, CUDA) is None and ranking(SearchChoice, CUDA) is None
    (line,) = caplog.messages
    assert "can't be used" in line and "vtp kernels tune" in line


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_value_error(content: bytes) -> None:
    path = results_file(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="can't be used"):
        read_results(KEY)


@pytest.mark.parametrize(
    "results", [{}, {"attention": 1}, {"attention": {"device": "cuda", "cases": [{"case": {"run": "x"}}]}}]
)
def test_results_of_another_make_are_said_once(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_results(KEY, results)
    monkeypatch.setattr(rankings, "key_of", lambda device: KEY)
    assert ranking(AttentionChoice, CUDA) is None and ranking(AttentionChoice, CUDA) is None
    assert len(caplog.messages) == 1


def test_a_device_that_was_never_tuned_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rankings, "key_of", lambda device: KEY)
    with caplog.at_level(logging.WARNING):
        assert ranking(AttentionChoice, CUDA) is None and ranking(SearchChoice, CUDA) is None
    assert caplog.messages == [
        "NVIDIA H200 was not tuned: [kernels] auto takes torch's own implementations; "
        "`vtp kernels tune` measures all of them"
    ]


def test_a_tuned_device_is_followed_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rankings, "key_of", lambda device: KEY)
    write_results(KEY, order(attention=["fast", "sdpa"]))
    found = ranking(AttentionChoice, CUDA)
    assert found is not None and not caplog.messages
    case = AttentionCase(device="cuda", dtype=torch.bfloat16, tokens=9, width=8, packed=False, lse=False)
    fast = AttentionKernel(
        name="fast", run=lambda *_: None, refuses=lambda case: None, suits=lambda case: False, device="cuda"
    )
    assert attention_choice("auto", [fast], found).pick(case).name == "fast"
    assert attention_choice("auto", [fast]).pick(case).name == "sdpa"


def test_on_a_cpu_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rankings, "read_results", None)
    assert ranking(AttentionChoice, torch.device("cpu")) is None


def test_the_key_names_driver_versions_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version: gcc version 12.2.0\n"
    )
    monkeypatch.setattr(keys, "DRIVER", driver)
    key = key_of(CUDA)
    assert key["device"] == "NVIDIA H200" and key["torch"] == torch.__version__
    assert key["sources"] == hash_sources() and len(key["sources"]) == 64
    assert key["driver"] == "580.65.06"
    monkeypatch.setattr(keys, "DRIVER", tmp_path / "none")
    assert key_of(CUDA)["driver"].startswith("CUDA ")
    assert key_of(torch.device("cpu"))["driver"] == ""


def test_a_changed_source_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("package/triton", "csrc/cuda"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(keys, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(keys, "csrc", lambda: tmp_path / "csrc")
    seen = set()
    for path, text in (
        ("package/triton/a.py", "x"), ("package/triton/a.py", "y"), ("csrc/cuda/a.cuh", "y"),
        ("csrc/cuda/b.cuh", ""), ("csrc/cuda/notes.md", "unseen"),
    ):  # fmt: skip
        (tmp_path / path).write_text(text)
        seen.add(hash_sources.__wrapped__())
    assert len(seen) == 4
