"""Makes the runs: the grids by the runner of `vtp scale`, and a proxy generator on each tokenizer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.study.arm import Run
from benchmarks.study.proxies import KERNEL, ProxyPool, Request, proxy_metrics
from benchmarks.study.record import make_record, read_record, write_record
from benchmarks.study.runner import Bench, is_done, set_by_signals
from benchmarks.study_scaling.arms import TINY_STEPS, arm_name, chains_of
from vtp_core.plugins import load_plugins
from vtp_plugins.scale import runner as grids
from vtp_plugins.scale.cost import Costs
from vtp_plugins.scale.runs import Run as GridRun


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Makes the proxies that finished runs lack, then trains what is missing, each with its proxy.

    A tokenizer says nothing of generation before it has its proxy, so that follows at once. A training is
    stopped at the end of the budget and goes on from its checkpoint.

    Returns:
        The runs that lack a record or its proxy.
    """
    end = time.monotonic() + budget if budget is not None else float("inf")
    bench.results.mkdir(parents=True, exist_ok=True)
    tiny = is_tiny(runs)
    chains = [
        chain
        for chain in chains_of(bench.overrides, tiny=tiny)
        if any(not is_done(run, bench) for run in _chosen(chain, runs))
    ]
    costs = Costs(load_plugins())
    stop = threading.Event()
    with ProxyPool(bench, end, stop, tiny=tiny) as pool, set_by_signals(stop):
        place = grids.Bench(
            out=bench.work,
            cost=lambda run: costs.of(run).data(),
            threads=bench.threads,
            jobs=bench.jobs,
            done=lambda _: _record(chains, runs, bench, place),
            after=lambda made: _measure(pool, _chosen([made], runs), bench),
        )
        _record(chains, runs, bench, place)
        _measure(pool, runs, bench)
        if chains and not stop.is_set():
            grids.make_chains(chains, place, None if budget is None else end - time.monotonic())
    return [run for run in runs if not has_proxy(run, bench)]


def is_tiny(runs: Sequence[Run]) -> bool:
    """Whether runs are tiny ones."""
    return any(f"run.steps={steps}" in run.overrides for run in runs for steps in TINY_STEPS)


def has_proxy(run: Run, bench: Bench) -> bool:
    """Whether a run has its record, and the record the distance of its proxy."""
    return bench.result(run).exists() and KERNEL in read_record(bench.result(run))["metrics"]


def _measure(pool: ProxyPool, runs: Sequence[Run], bench: Bench) -> None:
    """Adds the proxies that are missing to the records."""
    requests = []
    for run in runs:
        if bench.result(run).exists() and not has_proxy(run, bench):
            folder = bench.work / str(read_record(bench.result(run))["run_folder"])
            requests.append(Request(name=run.name, tokenizer=folder / "tokenizer", seed=0))
    for request, found in pool.measure(requests):
        path = bench.results / f"{request.name}.json"
        record = read_record(path)
        record["metrics"].update(proxy_metrics(found))
        write_record(record, path)


def _chosen(chain: Sequence[GridRun], runs: Sequence[Run]) -> list[Run]:
    names = {(arm_name(run), run.seed) for run in chain}
    return [run for run in runs if (run.arm.name, run.seed) in names]


def _record(
    chains: Sequence[Sequence[GridRun]], runs: Sequence[Run], bench: Bench, place: grids.Bench
) -> None:
    """Writes the records of finished runs, and removes checkpoints that nothing needs any more."""
    for chain in chains:
        for made in chain:
            folder = place.folder(made)
            chosen = _chosen([made], runs)
            if not chosen or bench.result(chosen[0]).exists():
                continue
            if grids.state_of(made, folder) == "done":
                write_record(_record_of(chosen[0], made, bench, place), bench.result(chosen[0]))
        done = all(grids.state_of(made, place.folder(made)) == "done" for made in chain)
        if done and chain[0].seed != bench.keep_seed:
            for made in chain:
                shutil.rmtree(place.folder(made) / "checkpoints", ignore_errors=True)


def _record_of(run: Run, made: GridRun, bench: Bench, place: grids.Bench) -> dict[str, Any]:
    folder = place.folder(made)
    found: Mapping[str, Any] = grids.read_record(folder)
    record = make_record(run, bench.study, bench.data, folder, found["sessions"], plugins=bench.plugins)
    return {
        **record,
        "forward_flops": found["flops"],
        "tokenizer_parameters": found["parameters"],
        "samples": found["samples"],
        "run_folder": made.name,
        "chain": made.parent or made.name,
        "levels": dict(made.levels),
        "family": made.family,
    }
