"""A worker in this process, with implementations planted among those of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_plugins.kernels.tuning import problem, worker
from vtp_plugins.kernels.tuning.worker import Worker

REFERENCE = next(kernel for kernel in TORCH_KERNELS if kernel.name == "reference")
DENSE, PACKED, BFLOAT16, SEARCH = 5, 6, 3, 8


def raising(error: BaseException) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        raise error

    return run


def wrong(*arguments: Any, **options: Any) -> Any:
    out, lse = REFERENCE.run(*arguments, **options)
    return out * 2, lse


PLANTED = {
    "wrong": (wrong, "failed", "output is off by 1.0e+00"),
    "raises": (raising(RuntimeError("out of\n  resources")), "failed", "RuntimeError: out of resources"),
    "large": (raising(torch.OutOfMemoryError("CUDA")), "refused", "needs more memory than there is"),
}


def events(
    monkeypatch: pytest.MonkeyPatch, shapes: list[int], kernels: Mapping[str, Any], **order: Any
) -> list[dict[str, Any]]:
    def candidates(operator: str, device: torch.device) -> list[Any]:
        mine = list(kernels.values()) if operator == "attention" else []
        return [*mine, *(it for it in problem.candidates(operator, device) if it.name != "cpu")]

    monkeypatch.setattr(worker, "candidates", candidates)
    said: list[dict[str, Any]] = []
    whole = {"device": "cpu", "shapes": shapes, "rounds": 2, "threads": 1, "excluded": [], **order}
    Worker(whole, lambda **event: said.append(event)).run()
    json.dumps(said)
    return said


@pytest.mark.parametrize("how", PLANTED)
def test_what_fails_is_said_and_the_rest_is_timed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, event, reason = PLANTED[how]
    said = events(monkeypatch, [DENSE, PACKED], {"bad": replace(REFERENCE, name="bad", run=run)})
    of_bad = [item for item in said if item.get("name") == "bad" and item["event"] != "trying"]
    assert [(item["event"], item["reason"].startswith(reason)) for item in of_bad] == [(event, True)] * len(
        of_bad
    )
    assert len(of_bad) == (1 if event == "failed" else 2), "a failure leaves it out for the dtype"
    timed = [item for item in said if item["event"] == "timed"]
    assert [item["index"] for item in timed] == [DENSE, PACKED]
    for item in timed:
        assert item["implementations"] == ["matmul", "sdpa", "reference"]
        assert all(seconds > 0 for parts in item["seconds"].values() for seconds in parts.values())
        assert set(item["seconds"]["sdpa"]) == {"forward", "step"}


def test_the_order_of_events_says_what_is_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    said = events(monkeypatch, [DENSE], {})
    names = [(item["event"], item.get("name")) for item in said]
    assert names == [
        ("shape", None),
        ("trying", "matmul"),
        ("trying", "sdpa"),
        ("trying", "reference"),
        ("timing", None),
        ("timed", None),
    ]
    assert {"dtype", "packed", "rope", "tokens", "width"} <= set(said[-1]["attributes"])


def test_what_is_excluded_or_refuses_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    picky = replace(REFERENCE, name="picky", refuses=lambda case: "has no float32")
    said = events(
        monkeypatch, [DENSE, BFLOAT16], {"picky": picky}, excluded=[["attention", "sdpa", "float32"]]
    )
    tried = [(item["index"], item["name"]) for item in said if item["event"] == "trying"]
    assert (DENSE, "sdpa") not in tried and (BFLOAT16, "sdpa") in tried
    assert not [pair for pair in tried if pair[1] == "picky"]
    assert {"event": "refused", "index": DENSE, "name": "picky", "reason": "has no float32"} in said


def test_a_shape_that_needs_too_much_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(shape: Any, device: torch.device) -> Any:
        if shape.dtype == "bfloat16":
            raise torch.OutOfMemoryError("CUDA")
        return problem.build(shape, device)

    monkeypatch.setattr(worker, "build", build)
    said = events(monkeypatch, [BFLOAT16, DENSE], {})
    assert said[1] == {"event": "skipped", "index": BFLOAT16, "reason": "needs more memory than there is"}
    assert said[-1]["event"] == "timed"


def test_a_yardstick_that_can_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def yardsticks(self: Any) -> dict[str, Any]:
        return {"flash": {"step": raising(RuntimeError("No available kernel.\nmore"))}, "own": {"step": int}}

    monkeypatch.setattr(worker, "measure", lambda calls, rounds, clock: {})
    monkeypatch.setattr("vtp_plugins.kernels.tuning.search_problem.SearchProblem.yardsticks", yardsticks)
    said = events(monkeypatch, [SEARCH], {})
    assert said[-2] == {
        "event": "refused", "index": SEARCH, "name": "flash", "reason": "No available kernel."
    }  # fmt: skip
    assert set(said[-1]["seconds"]) == {"reference", "own"}


def test_a_failure_that_breaks_the_device_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    made = Worker(
        {"device": "cpu", "shapes": [], "rounds": 2, "threads": 1, "excluded": []}, lambda **event: None
    )
    made._check_device()
    assert not codes
    made.device = torch.device("cuda")
    monkeypatch.setattr(torch, "ones", raising(RuntimeError("CUDA error: an illegal memory access")))
    made._check_device()
    assert codes == [worker.BROKEN]


@pytest.mark.slow
def test_prints_of_kernels_do_not_mix_with_the_events() -> None:
    program = """
import os
from vtp_plugins.kernels.tuning import worker
from vtp_plugins.kernels.tuning.worker import Worker

def run(self):
    print("printed")
    os.write(1, b"written\\n")
    self.say(event="shape", index=0)

Worker.run = run
worker.main()
"""
    order = {"device": "cpu", "shapes": [], "rounds": 2, "threads": 1, "excluded": []}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(order)], capture_output=True, text=True, check=True
    )
    assert done.stdout == '{"event": "shape", "index": 0}\n'
    assert "printed" in done.stderr and "written" in done.stderr
