"""The tensorboard callback, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vtp_core.errors import UsageError
from vtp_core.run.callback import Callbacks, RunInfo
from vtp_plugins.tensorboard.callback import TensorBoard
from vtp_plugins.tensorboard.config import TensorBoardConfig


def info(folder: Path, start: int = 0) -> RunInfo:
    return RunInfo(name="toy", folder=folder, start=start, total=10, recipe={"run": {"steps": 10}})


def read(folder: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_what_is_logged_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    callbacks = Callbacks({"board": TensorBoard(TensorBoardConfig(folder="events"))})
    callbacks.run_start(info(tmp_path))
    callbacks.step_end(1, {"step": 1, "loss/clip/loss": 2.5, "lr": 1e-3})
    callbacks.step_end(2, {"step": 2, "loss/clip/loss": 1.25, "lr": float("nan")})
    callbacks.evaluate(2, {"psnr": {"value": 17.5, "protocol": "p", "baseline": 11.25}, "x": {"value": 1.0}})
    callbacks.run_end(2, True)
    events = read(tmp_path / "events")
    assert set(events.Tags()["scalars"]) == {
        "loss/clip/loss",
        "lr",
        "eval/psnr",
        "eval/psnr/baseline",
        "eval/x",
    }
    assert [(event.step, event.value) for event in events.Scalars("loss/clip/loss")] == [(1, 2.5), (2, 1.25)]
    assert events.Scalars("eval/psnr")[0].value == 17.5
    assert b'"steps": 10' in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def test_a_resumed_run_replaces_later_values(tmp_path):
    pytest.importorskip("tensorboard")
    for start, value in ((0, 1.0), (3, 2.0)):
        callback = TensorBoard(TensorBoardConfig())
        callback.on_run_start(info(tmp_path, start))
        for step in range(start, 5):
            callback.on_step_end(step, {"loss": value})
        callback.on_run_end(5, True)
    values = {event.step: event.value for event in read(tmp_path / "tensorboard").Scalars("loss")}
    assert values == {0: 1.0, 1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'vtp-core\[tensorboard\]'"):
        TensorBoard(TensorBoardConfig()).on_run_start(info(tmp_path))
