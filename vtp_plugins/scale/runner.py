"""Trains the runs of a grid, one process each, and resumes where it was stopped. Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from vtp_core.atomic import replacing_folder, write_json
from vtp_core.errors import CheckpointError, Preempted, Stopped, UsageError, VtpError
from vtp_core.recipe.writing.dump import literal
from vtp_core.run.records import RunFolder
from vtp_core.training.saving.best import read_best
from vtp_core.training.saving.manifest import published
from vtp_plugins.scale.runs import Run

RECORD = "scale.json"
"""In a run's folder: how it ended, and what it took."""
POLL_SECONDS = 0.2
State = Literal["done", "failed", "stopped", "missing"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how runs are made.

    Attributes:
        out: Folder of the runs' folders.
        cost: What a finished run took, for its record; called by one thread at a time.
        threads: CPU threads a run; None: torch's choice.
        jobs: Runs at the same time.
        plugin_files: Files of plugins that the recipes need.
        done: Called when a run is finished, by one thread at a time.
        after: Called next by the run's own thread, which makes no other run meanwhile; may take long.
        quiet: Whether progress goes to standard error, as standard output is for JSON.
        lock: Held meanwhile.
    """

    out: Path
    cost: Callable[[Run], Mapping[str, float]]
    threads: int | None = None
    jobs: int = 1
    plugin_files: tuple[Path, ...] = ()
    done: Callable[[Run], None] = lambda run: None
    after: Callable[[Run], None] = lambda run: None
    quiet: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def folder(self, run: Run | str) -> Path:
        """A run's folder."""
        return self.out / (run if isinstance(run, str) else run.name)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; empty if there is none.

    Raises:
        UsageError: It can't be read.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read ({error}); remove it to train that run again") from None
    if not isinstance(record, dict):
        raise UsageError(f"{path}: not a JSON object; remove it to train that run again")
    return record


def state_of(run: Run, folder: Path) -> State:
    """How far a run is.

    Raises:
        UsageError: The folder has a run of other settings.
    """
    record = read_record(folder)
    if not record:
        return "missing"
    if record.get("digest") != run.digest:
        raise UsageError(
            f"{folder} was made with other settings than the grid's; move it away, or give the "
            "grid another out"
        )
    state = record.get("state")
    return state if state in ("done", "failed", "stopped") else "missing"


def make_chains(chains: Sequence[Sequence[Run]], bench: Bench, budget: float | None = None) -> bool:
    """Makes the runs that are not done; a run that failed is recorded and tried again the next time.

    SIGINT, SIGTERM and the end of the budget stop the running ones cleanly: each saves its step.

    Args:
        chains: Runs, each chain in the order of its runs.
        bench: Where and how.
        budget: Seconds of wall time; None: no limit.

    Returns:
        Whether it was stopped by a signal.

    Raises:
        UsageError: A folder has a run of other settings; nothing was started.
    """
    for run in (run for chain in chains for run in chain):
        state_of(run, bench.folder(run))
    bench.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    stop = threading.Event()
    # A signal must reach the runs, which finish their step and save; it must not end this process first.
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        with ThreadPoolExecutor(bench.jobs) as pool:
            for future in [pool.submit(_make_chain, chain, bench, end, stop) for chain in chains]:
                future.result()
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    return stop.is_set()


def _make_chain(chain: Sequence[Run], bench: Bench, end: float, stop: threading.Event) -> None:
    for index, run in enumerate(chain):
        if stop.is_set() or time.monotonic() >= end:
            return
        if state_of(run, bench.folder(run)) == "done":
            continue
        if not make_run(run, bench, end, stop) and index == 0 and any(each.parent for each in chain):
            return  # what branches off it can't be made


def make_run(run: Run, bench: Bench, end: float, stop: threading.Event) -> bool:
    """Trains one run from its newest checkpoint, or its parent's, on; whether it came to its end."""
    folder, log = bench.folder(run), bench.out / f"{run.name}.log"
    # Before there are checkpoints: if all processes are killed, a changed grid must not go on from them.
    _record(run, bench, "stopped", 0, "", {})
    try:
        if run.parent is not None:
            branch_off(bench.folder(run.parent), folder, run.start)
    except VtpError as error:
        _record(run, bench, "failed", error.exit_code, str(error), {})
        return False
    click.echo(f"{run.name}: starts; log {log}", err=bench.quiet)
    began, environment = time.monotonic(), dict(os.environ)
    if bench.threads is not None:
        environment["OMP_NUM_THREADS"] = str(bench.threads)
    with log.open("a") as file:
        # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            _command(run, bench), stdout=file, stderr=file, env=environment, start_new_session=True
        )
        code, cpu = _wait(process, end, stop)
    session = {"cpu_seconds": round(cpu, 1), "wall_seconds": round(time.monotonic() - began, 1)}
    if code in (Preempted.exit_code, Stopped.exit_code):
        _record(run, bench, "stopped", code, "", session)
        return False
    if code:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        _record(run, bench, "failed", code, (lines or ["no output"])[-1][:500], session)
        return False
    with bench.lock:
        _prune(folder, run.keeps)
        _record(run, bench, "done", 0, "", session, bench.cost(run))
        bench.done(run)
    bench.after(run)
    return True


def branch_off(parent: Path, folder: Path, step: int) -> None:
    """Gives a folder the parent's checkpoint of a step to resume from, unless it has one.

    Raises:
        CheckpointError: The parent has none.
    """
    target = RunFolder(folder)
    if published(target.checkpoints):
        return
    name = f"step-{step:08d}"
    source = RunFolder(parent).checkpoints / name
    if not source.is_dir():
        raise CheckpointError(
            f"{source}: no such checkpoint to branch from; remove {parent} to train it again"
        )
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    if RunFolder(parent).metrics.is_file():
        shutil.copyfile(RunFolder(parent).metrics, target.metrics)  # the run cuts off what came later
    with replacing_folder(target.checkpoints / name) as new:
        for file in source.iterdir():
            try:
                os.link(file, new / file.name)
            except OSError:  # another file system
                shutil.copyfile(file, new / file.name)


def _command(run: Run, bench: Bench) -> list[str]:
    command = [sys.executable, "-m", "vtp_core", "run", str(run.recipe), "--resume"]
    if run.parent is not None:
        command.append("--allow-change")  # of its length and its learning rate's decay
    for file in bench.plugin_files:
        command += ["--plugin", str(file)]
    settings = [*run.overrides, *run.settings, f"run.out={literal(str(bench.folder(run)))}"]
    if bench.threads is not None:
        settings.append(f"run.threads={bench.threads}")
    for setting in settings:
        command += ["-s", setting]
    return command


def _wait(process: subprocess.Popen[bytes], end: float, stop: threading.Event) -> tuple[int, float]:
    """Waits for a process, asking it to stop when it is time.

    Returns:
        Its exit code, 128 + the signal if one killed it, as shells report it; seconds of CPU time.
    """
    asked = False
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code, usage.ru_utime + usage.ru_stime
        if not asked and (stop.is_set() or time.monotonic() >= end):
            process.send_signal(signal.SIGTERM)
            asked = True
        time.sleep(POLL_SECONDS)


def _record(
    run: Run,
    bench: Bench,
    state: State,
    code: int,
    message: str,
    session: Mapping[str, float],
    cost: Mapping[str, float] | None = None,
) -> None:
    """Keeps how far a run is, and says how a session of it ended."""
    folder = bench.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    sessions = [*read_record(folder).get("sessions", []), *([session] if session else [])]
    record = {
        "state": state, "exit_code": code, "message": message, "digest": run.digest, "family": run.family,
        "levels": dict(run.levels), "seed": run.seed, "steps": run.steps, "parent": run.parent,
        "sessions": sessions, **(cost or {}),
    }  # fmt: skip
    write_json(folder / RECORD, record)
    if state == "stopped" and not session:
        return  # it starts
    said = {"done": "done", "stopped": "stopped; run the same command to resume"}
    how = said.get(state, f"failed with exit code {code}: {message}")
    seconds = sum(each["cpu_seconds"] for each in sessions)
    click.echo(f"{run.name}: {how}; {seconds:.0f} s of CPU", err=bench.quiet)


def _prune(folder: Path, keeps: Iterable[int]) -> None:
    """Removes checkpoints that were made only because others might branch off near them."""
    if kept := {f"step-{step:08d}" for step in keeps}:
        checkpoints = RunFolder(folder).checkpoints
        if best := read_best(checkpoints):
            kept.add(best.path.name)
        for path in published(checkpoints)[1:]:
            if path.name not in kept and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
