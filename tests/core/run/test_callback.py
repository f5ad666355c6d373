"""Callbacks: order, and what happens to one that fails."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.run.callback import Callback, Callbacks, RunInfo

INFO = RunInfo(name="toy", folder=Path("run"), start=0, total=2, recipe={})


class Recorder(Callback):
    def __init__(self, name: str, seen: list, failing: str = "") -> None:
        super().__init__(ComponentConfig(use="recorder"))
        self.name, self.seen, self.failing = name, seen, failing

    def _note(self, event: str) -> None:
        if event == self.failing:
            raise RuntimeError("no space")
        self.seen.append((self.name, event))

    def on_run_start(self, run):
        self._note("start")

    def on_step_end(self, step, metrics):
        self._note(f"step {step} {metrics['lr']}")

    def on_checkpoint(self, step, folder):
        self._note(f"checkpoint {step} {folder}")

    def on_evaluate(self, step, results):
        self._note(f"evaluate {step} {results['psnr']['value']}")

    def on_run_end(self, step, finished):
        self._note(f"end {step} {finished}")


def play(callbacks: Callbacks) -> None:
    callbacks.run_start(INFO)
    callbacks.step_end(1, {"lr": 0.5})
    callbacks.checkpoint(1, Path("c"))
    callbacks.evaluate(2, {"psnr": {"value": 20.0}})
    callbacks.run_end(2, True)


EVENTS = ["start", "step 1 0.5", "checkpoint 1 c", "evaluate 2 20.0", "end 2 True"]


def test_every_callback_sees_every_event_in_order():
    seen: list = []
    play(
        Callbacks(
            {"a": Recorder("a", seen), "b": Recorder("b", seen), "idle": Callback(ComponentConfig(use="x"))}
        )
    )
    assert seen == [(name, event) for event in EVENTS for name in "ab"]


@pytest.mark.parametrize("event", EVENTS[1:])
def test_one_that_fails_later_is_named_and_left_out(caplog, event):
    seen: list = []
    with caplog.at_level(logging.WARNING):
        play(Callbacks({"bad": Recorder("bad", seen, event), "good": Recorder("good", seen)}))
    assert [text for name, text in seen if name == "good"] == EVENTS
    assert [text for name, text in seen if name == "bad"] == EVENTS[: EVENTS.index(event)]
    assert caplog.messages == ["callbacks.bad failed and is not called again: RuntimeError('no space')"]


def test_one_that_can_not_start_ends_the_run():
    with pytest.raises(UsageError, match=r"callbacks\.bad: could not start \(RuntimeError\('no space'\)\)"):
        Callbacks({"bad": Recorder("bad", [], "start")}).run_start(INFO)
