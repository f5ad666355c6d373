"""Trains the tokenizers, and on each a proxy generator that is measured at five training steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.study.arm import Run
from benchmarks.study.proxies import ProxyPool, Request, proxy_metrics
from benchmarks.study.record import read_record, write_record
from benchmarks.study.runner import Bench, is_done, make_run, set_by_signals
from benchmarks.study_convergence.arms import is_tiny

CURVE = "curve"
"""Key of a record: distances of the proxy's samples by training step."""


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Makes what is missing, `bench.jobs` at once; a training goes on from its checkpoint.

    Returns:
        The runs that lack a record or its curve.
    """
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    stop = threading.Event()

    def make_one(run: Run, pool: ProxyPool) -> None:
        if not stop.is_set() and time.monotonic() < end and not is_done(run, bench):
            make_run(run, bench, end, stop)
        if not stop.is_set() and bench.result(run).exists() and not has_curve(run, bench):
            _measure(run, pool, bench)

    tiny = any(is_tiny(run.arm) for run in runs)
    with ProxyPool(bench, end, stop, tiny=tiny) as pool, set_by_signals(stop):
        with ThreadPoolExecutor(bench.jobs) as threads:
            for future in [threads.submit(make_one, run, pool) for run in runs]:
                future.result()
    return [run for run in runs if not has_curve(run, bench)]


def has_curve(run: Run, bench: Bench) -> bool:
    """Whether a run has its record, and the record the curve of its proxy."""
    return bench.result(run).exists() and CURVE in read_record(bench.result(run))


def _measure(run: Run, pool: ProxyPool, bench: Bench) -> None:
    """Adds the proxy's distances to the run's record."""
    folder = bench.work / run.name / "tokenizer"
    for _, found in pool.measure([Request(name=run.name, tokenizer=folder, seed=run.seed, curve=True)]):
        record = read_record(bench.result(run))
        record["metrics"] |= proxy_metrics(found)
        record[CURVE] = [point.model_dump(mode="json") for point in found.curve]
        write_record(record, bench.result(run))
