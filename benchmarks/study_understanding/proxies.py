"""Trains the tokenizers and the proxies on their latents, and writes the proxies into the records."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from benchmarks.study.arm import Run
from benchmarks.study.proxies import ProxyPool, Request, proxy_metrics
from benchmarks.study.record import read_record, write_record
from benchmarks.study.runner import Bench, make_runs
from benchmarks.study_understanding.arms import is_tiny, proxy_seeds
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_plugins.probe_gen.record import Record


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Trains the tokenizers, `bench.jobs` at once, and a proxy on each; then the further proxies.

    A tokenizer goes on from its checkpoint.

    Returns:
        The runs that lack a record or a proxy.
    """
    bench.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    tiny = any(is_tiny(run.arm) for run in runs)
    with ProxyPool(bench, end, tiny=tiny) as pool:
        for start in range(0, len(runs), bench.jobs):
            turn = runs[start : start + bench.jobs]
            for run in turn:
                link_first(run, runs, bench)
            with _left_out():
                if make_runs(turn, bench, end - time.monotonic() if budget is not None else None):
                    break
            _measure(pool, [(run, 0) for run in turn if 0 in missing(run, bench)], bench)
        else:
            _measure(pool, [(run, seed) for run in runs for seed in missing(run, bench)], bench)
    return [run for run in runs if missing(run, bench)]


@contextmanager
def _left_out() -> Iterator[None]:
    """Says what went wrong, so that one tokenizer doesn't hold up the others."""
    try:
        yield
    except (click.ClickException, VtpError) as error:
        click.echo(f"left out; {error}")


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


def link_first(run: Run, runs: Sequence[Run], bench: Bench) -> None:
    """Lets a finished run stand for the first stage of another, if its settings are those of the stage."""
    place = bench.work / f"{run.name}_first"
    if run.arm.first is None or place.exists():
        return
    for other in runs:
        same = (other.arm.recipe, other.overrides) == (run.arm.first, run.first_overrides)
        if same and other.arm.first is None and (bench.work / other.name / "report.html").exists():
            place.symlink_to((bench.work / other.name).resolve())


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
