"""Trains the tokenizers and the proxies on their latents, and writes the proxies into the records."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from benchmarks.study.arm import Run
from benchmarks.study.proxies import ProxyPool, Request, proxy_metrics
from benchmarks.study.record import read_record, write_record
from benchmarks.study.runner import Bench, is_done, is_finished, make_run, set_by_signals
from benchmarks.study_understanding.arms import is_tiny, proxy_seeds
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_plugins.probe_gen.record import Record


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Trains each tokenizer and a proxy on it, `bench.jobs` at once; then the further proxies.

    A tokenizer goes on from its checkpoint. SIGINT, SIGTERM and the end of the budget stop trainings in good
    order; a proxy that has begun is finished.

    Returns:
        The runs that lack a record or a proxy.
    """
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    stop = threading.Event()
    ended = {run.name: threading.Event() for run in runs}
    tiny = any(is_tiny(run.arm) for run in runs)

    def make_one(run: Run, pool: ProxyPool) -> None:
        try:
            if (first := first_of(run, runs)) is not None:
                ended[first.name].wait()
            with _left_out(run):
                if first is not None:
                    link_first(run, first, bench)
                if not stop.is_set() and time.monotonic() < end and not is_done(run, bench):
                    make_run(run, bench, end, stop)
            if not stop.is_set() and 0 in missing(run, bench):
                _measure(pool, [(run, 0)], bench)
        finally:
            ended[run.name].set()

    with ProxyPool(bench, end, stop, tiny=tiny) as pool, set_by_signals(stop):
        with ThreadPoolExecutor(bench.jobs) as threads:
            for future in [threads.submit(make_one, run, pool) for run in runs]:
                future.result()
        if not stop.is_set():
            _measure(pool, [(run, seed) for run in runs for seed in missing(run, bench)], bench)
    return [run for run in runs if missing(run, bench)]


@contextmanager
def _left_out(run: Run) -> Iterator[None]:
    """Says what went wrong, so that one tokenizer doesn't hold up the others."""
    try:
        yield
    except (click.ClickException, VtpError) as error:
        click.echo(f"{run.name}: left out; {error}")


def _measure(pool: ProxyPool, wanted: Iterable[tuple[Run, int]], bench: Bench) -> None:
    """Adds proxies to the records of those runs that have one."""
    requests = [
        Request(name=run.name, tokenizer=bench.work / run.name / "tokenizer", seed=seed)
        for run, seed in wanted
        if bench.result(run).exists()
    ]
    for request, found in pool.measure(requests):
        path = bench.results / f"{request.name}.json"
        write_record(with_proxy(read_record(path), found), path)


def first_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run whose settings are those of another's first stage; None: there is none."""
    if run.arm.first is None:
        return None
    for other in runs:
        same = (other.arm.recipe, other.overrides) == (run.arm.first, run.first_overrides)
        if same and other.arm.first is None:
            return other
    return None


def link_first(run: Run, first: Run, bench: Bench) -> None:
    """Lets a run that has its record stand for the first stage of another.

    Raises:
        ClickException: The record is of other settings.
    """
    place, folder = bench.first(run), bench.work / first.name
    if not place.exists() and is_done(first, bench) and is_finished(folder):
        bench.first_digest(run).write_text(run.first_digest())
        place.symlink_to(folder.resolve())


def missing(run: Run, bench: Bench) -> list[int]:
    """Seeds of proxies that a run lacks; all of them if it has no record."""
    record = read_record(bench.result(run)) if bench.result(run).exists() else {}
    known = [proxy["seed"] for proxy in record.get("proxies", [])]
    return [seed for seed in proxy_seeds(run.arm.name) if seed not in known]


def with_proxy(record: dict[str, Any], found: Record) -> dict[str, Any]:
    """A record with one proxy more; the first one's distances are its metrics."""
    kept = {
        "seed": found.seed,
        "kernel": found.final.kernel,
        "kernel_error": found.final.kernel_error,
        "frechet": found.final.frechet,
        "loss": found.loss,
    }
    proxies = sorted([*record.get("proxies", []), kept], key=lambda proxy: int(proxy["seed"]))
    metrics = dict(record["metrics"])
    if found.seed == 0:
        metrics |= proxy_metrics(found)
        metrics["channels"] = {"value": float(found.channels)}
    return {**record, "metrics": metrics, "proxies": proxies}
