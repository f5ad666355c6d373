"""A run keeps the implementations that it began with, or says in one line that it can't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.run.tiny_run import assert_same_bits, last_checkpoint, state, vtp
from vtp_core.ops import (
    AttentionChoice,
    AttentionKernel,
    MeasuredCase,
    Ranking,
    SearchKernel,
    attention_choice,
    search_choice,
)
from vtp_core.ops.installed import installed
from vtp_core.ops.nearest_code_torch import search
from vtp_core.recipe.tables.run import KernelsConfig
from vtp_core.run.setup.kernels import RunKernels, keep_kernels
from vtp_core.training.saving.checkpoint import find_latest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
AUTO = KernelsConfig()
RANKING = Ranking(device="cpu", cases=(MeasuredCase(kind=(), sizes=(), names=("foo.fast",)),))


def kernel(name: str, **changes: Any) -> SearchKernel:
    made = SearchKernel(name=name, run=search, refuses=lambda case: None, suits=lambda case: True)
    return replace(made, **changes)


FAST, OTHER = kernel("foo.fast"), kernel("foo.other")


def kernels(*search_kernels: SearchKernel, ranking: Ranking | None = None, name: str = "auto") -> RunKernels:
    return RunKernels(
        attention=attention_choice("auto", []), nearest_code=search_choice(name, search_kernels, ranking)
    )


def extra(began: RunKernels, device: torch.device = CPU) -> object:
    """What a manifest holds of them, once it was written and read."""
    return json.loads(json.dumps({"kernels": began.record(device)}))


def test_what_is_the_same_is_kept_without_a_word() -> None:
    began = kernels(OTHER, FAST, ranking=RANKING)
    assert keep_kernels(began, AUTO, extra(began), CPU) == (began, [])


def test_order_and_ranking_are_those_of_the_start() -> None:
    began, now = kernels(OTHER, ranking=RANKING), kernels(FAST, OTHER)
    kept, lines = keep_kernels(now, AUTO, extra(began), CPU)
    assert kept == began
    assert lines == [
        "kernels.nearest_code: kept as the run began, among foo.other, reference; auto would now differ"
    ]


def test_only_what_can_run_on_the_device_is_recorded() -> None:
    abroad, lost = kernel("foo.gpu", device="cuda"), kernel("foo.lost", missing=lambda: "is not built")
    record = kernels(abroad, FAST, lost).record(CPU)
    assert record["nearest_code"]["names"] == ["foo.fast", "reference"]
    assert record["nearest_code"]["ranking"] is None and record["nearest_code"]["device"] == "cpu"
    assert kernels(abroad).record(CUDA)["nearest_code"]["names"] == ["foo.gpu", "reference"]


def test_a_named_implementation_is_the_recipes() -> None:
    now = kernels(FAST, OTHER, name="foo.other")
    named = KernelsConfig(nearest_code="foo.other")
    assert keep_kernels(now, named, extra(kernels(FAST)), CPU) == (now, [])


def test_what_is_lost_is_named_and_the_rest_goes_on() -> None:
    kept, lines = keep_kernels(kernels(OTHER), AUTO, extra(kernels(FAST, OTHER)), CPU)
    assert [it.name for it in kept.nearest_code.kernels] == ["foo.other", "reference"]
    assert lines == [
        "kernels.nearest_code: the run began with foo.fast, not available here; left: foo.other, reference"
    ]


def test_another_kind_of_device_chooses_again() -> None:
    now = kernels(FAST)
    kept, lines = keep_kernels(now, AUTO, extra(kernels(OTHER), CUDA), CPU)
    assert kept == now and len(lines) == 2
    assert lines[1] == "kernels.nearest_code: the run began on cuda; chosen again for cpu"


def test_a_record_without_anything_of_here_chooses_again() -> None:
    record = {"kernels": {"nearest_code": {"device": "cpu", "names": ["bar.gone"], "ranking": None}}}
    kept, (line,) = keep_kernels(kernels(FAST), AUTO, record, CPU)
    assert kept == kernels(FAST) and line.endswith("with bar.gone, none available here; chosen again")


@pytest.mark.parametrize("older", [{}, None, [], {"kernels": {}}, {"kernels": None}, {"kernels": []}])
def test_checkpoints_of_older_versions_choose_again_without_a_word(older: object) -> None:
    assert keep_kernels(kernels(FAST), AUTO, older, CPU) == (kernels(FAST), [])


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        "x",
        {},
        {"device": "cpu", "names": None, "ranking": None},
        {"device": "cpu", "names": ["foo.fast"]},
        {"device": "cpu", "names": ["foo.fast"], "ranking": {"device": 1, "cases": []}},
        {
            "device": "cpu",
            "names": [],
            "ranking": {"device": "cpu", "cases": [{"case": {"run": 1}, "names": []}]},
        },
    ],
)
def test_a_damaged_record_is_one_line(damaged: object) -> None:
    kept, (line,) = keep_kernels(kernels(FAST), AUTO, {"kernels": {"nearest_code": damaged}}, CPU)
    assert kept == kernels(FAST)
    assert (
        line.startswith("kernels.nearest_code: the checkpoint's record can't be read (") and "\n" not in line
    )


STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'


def test_a_resumed_run_keeps_its_implementations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Begun where no plugin offered any, resumed where all do: those of torch to the end."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    with monkeypatch.context() as alone:
        alone.setattr("vtp_core.run.setup.kernels.offered", lambda plugins, kind: [])
        assert vtp(whole).exit_code == 0
        assert vtp(stopped, STOP).exit_code == 75
    result = vtp(stopped, STOP, resume=True)
    assert result.exit_code == 0, result.output
    if any(it.missing() is None for it in installed(AttentionKernel)):
        kept = "kernels.attention: kept as the run began, among matmul, sdpa, reference"
        assert [line.startswith(kept) for line in caplog.messages].count(True) == 1
    names = last_checkpoint(stopped)["extra"]["kernels"]["attention"]["names"]
    assert names == ["matmul", "sdpa", "reference"]
    assert_same_bits(state(stopped), state(whole))


def test_a_checkpoint_without_the_record_resumes(tmp_path: Path) -> None:
    assert vtp(tmp_path, STOP).exit_code == 75
    path = find_latest(tmp_path / "run").path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert AttentionChoice.operator in manifest["extra"].pop("kernels")
    del manifest["sha256"]
    path.write_text(json.dumps({**manifest, "format_version": 1}))
    assert vtp(tmp_path, STOP, resume=True).exit_code == 0
