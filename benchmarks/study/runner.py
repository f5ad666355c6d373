"""Trains the runs of a study, one process each, and resumes where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.study.arm import Run
from benchmarks.study.record import make_record, read_record, training_cost, write_record
from vtp_core.errors import Preempted

POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how the runs of a study are made.

    Attributes:
        study: Its name, for the records.
        data: Name of the data, for the records.
        overrides: What is no part of the experiment: the data's place.
        work: Run folders, one a run.
        results: Records, one JSON a run.
        threads: CPU threads a run.
        jobs: Runs at the same time.
        keep_seed: The seed whose checkpoints stay, for later studies; of others only the tokenizer stays.
        plugins: Files of plugins that its recipes need.
        measure: Gives further metrics of a finished run's folder, as those of ``eval.json``.
        recording: Held while a record is made: planning measures one recipe at a time.
    """

    study: str
    data: str
    overrides: tuple[str, ...]
    work: Path
    results: Path
    threads: int = 1
    jobs: int = 1
    keep_seed: int = 0
    plugins: tuple[Path, ...] = ()
    measure: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    recording: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def result(self, run: Run) -> Path:
        """File of a run's record."""
        return self.results / f"{run.name}.json"

    def first(self, run: Run) -> Path:
        """Folder of the stage before a run."""
        return self.work / f"{run.name}_first"

    def first_digest(self, run: Run) -> Path:
        """File with the digest of the settings that made it."""
        return self.work / f"{run.name}_first.digest"


def make_runs(runs: Sequence[Run], bench: Bench, budget: float | None = None) -> list[Run]:
    """Makes the runs that have no record yet.

    A run is done when its record is there. One that was stopped has its checkpoints in `bench.work` and goes
    on from the newest of them. SIGINT, SIGTERM and the end of the budget stop the running ones cleanly.

    Args:
        runs: In the order of their start.
        bench: Where and how.
        budget: Seconds of wall time after which everything is stopped; None: no limit.

    Returns:
        The runs that are still to be made.

    Raises:
        ClickException: A record is of other settings, or a run failed.
    """
    waiting = [run for run in runs if not is_done(run, bench)]
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    stop = threading.Event()

    def make(run: Run) -> None:
        if stop.is_set() or time.monotonic() >= end:
            return
        try:
            make_run(run, bench, end, stop)
        except BaseException:
            stop.set()
            raise

    with set_by_signals(stop), ThreadPoolExecutor(bench.jobs) as pool:
        for future in [pool.submit(make, run) for run in waiting]:
            future.result()
    return [run for run in waiting if not bench.result(run).exists()]


@contextmanager
def set_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`: the runs finish their step and save before this process ends."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def is_done(run: Run, bench: Bench) -> bool:
    """Whether a run has its record.

    Raises:
        ClickException: The record is of other settings or data.
    """
    if not bench.result(run).exists():
        return False
    record = read_record(bench.result(run))
    if record["settings"] != run.digest() or record["data"] != bench.data:
        raise click.ClickException(
            f"{bench.result(run)}: of other settings or data than the study's; remove it to run again"
        )
    return True


def make_run(run: Run, bench: Bench, end: float, stop: threading.Event) -> None:
    """Trains and measures one run, its first stage before it, and writes its record, unless it is stopped.

    Raises:
        ClickException: The training failed; its log says why.
    """
    folder, first = bench.work / run.name, bench.first(run)
    overrides = run.overrides
    if run.arm.first is not None:
        if not _make_first(run, run.arm.first, bench, end, stop):
            return
        overrides = (*overrides, f"init_from.path={first}")
    if not _train(run.arm.recipe, overrides, folder, bench, end, stop):
        return
    sessions = [*_sessions(first), *_sessions(folder)]
    with bench.recording:
        record = make_record(run, bench.study, bench.data, folder, sessions, plugins=bench.plugins)
        if run.arm.first is not None:
            before = training_cost(first, bench.plugins)
            record["first_steps"] = before["steps"]
            record["flops"] += before["flops"]
        record["metrics"] |= bench.measure(folder)
    write_record(record, bench.result(run))
    if run.seed != bench.keep_seed:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(first / "checkpoints", ignore_errors=True)
    click.echo(f"{run.name}: done, {record['cpu_seconds']:.0f} s of CPU time")


def is_finished(folder: Path) -> bool:
    """Whether a run came to its end: the report is the last that it writes."""
    return (folder / "report.html").exists()


def _make_first(run: Run, recipe: Path, bench: Bench, end: float, stop: threading.Event) -> bool:
    """Trains the stage before a run, unless it is finished; whether it is.

    Raises:
        ClickException: It is of other settings, or the training failed.
    """
    first, digest = bench.first(run), bench.first_digest(run)
    if not is_finished(first):
        digest.write_text(run.first_digest())
        return _train(recipe, run.first_overrides, first, bench, end, stop)
    if not digest.exists() or digest.read_text() != run.first_digest():
        raise click.ClickException(
            f"{first}: of other settings than the study's; remove it and {bench.work / run.name} "
            "to train both again"
        )
    return True


def _train(
    recipe: Path,
    overrides: Sequence[str],
    folder: Path,
    bench: Bench,
    end: float,
    stop: threading.Event,
) -> bool:
    """Runs ``vtp run`` in a process of its own, from the newest checkpoint on; whether it came to its end."""
    log = folder.with_name(f"{folder.name}.log")
    command = [sys.executable, "-m", "vtp_core", "run", str(recipe), "--resume"]
    for plugin in bench.plugins:
        command += ["--plugin", str(plugin)]
    for override in (*overrides, *bench.overrides, f"run.out={folder}", f"run.threads={bench.threads}"):
        command += ["-s", override]
    click.echo(f"{folder.name}: starts; log {log}")
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(bench.threads)}
    with log.open("a") as file:
        # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        code, cpu = _wait(process, end, stop)
    _add_session(folder, cpu, time.monotonic() - began)
    if code == Preempted.exit_code or (code and (stop.is_set() or time.monotonic() >= end)):
        click.echo(f"{folder.name}: stopped; run the same command to resume")
        return False
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise click.ClickException(f"{folder.name} failed with exit code {code}: {last} (log: {log})")
    return True


def _wait(process: subprocess.Popen[bytes], end: float, stop: threading.Event) -> tuple[int, float]:
    """Waits for a process, asking it to stop when it is time: its exit code and seconds of CPU time."""
    asked = False
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime
        if not asked and (stop.is_set() or time.monotonic() >= end):
            process.send_signal(signal.SIGTERM)
            asked = True
        time.sleep(POLL_SECONDS)


def _sessions(folder: Path) -> list[dict[str, float]]:
    """What each start of a run took."""
    path = folder / "sessions.json"
    sessions: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    return sessions


def _add_session(folder: Path, cpu: float, wall: float) -> None:
    """Notes what one start of a run took, beside those before it."""
    folder.mkdir(parents=True, exist_ok=True)
    sessions = [*_sessions(folder), {"cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1)}]
    (folder / "sessions.json").write_text(json.dumps(sessions) + "\n")
