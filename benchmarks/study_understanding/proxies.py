"""Trains the proxies of `vtp probe-gen` on the runs' latents, and writes their distances into the records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import torch

from benchmarks.study.arm import Run
from benchmarks.study.record import read_record, write_record
from benchmarks.study.runner import Bench, make_runs
from benchmarks.study_understanding.arms import is_tiny, proxy_seeds
from benchmarks.study_understanding.figures import FRECHET, KERNEL
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_plugins.probe_gen.config import ProbeSettings
    from vtp_plugins.probe_gen.measure import Probe, Subject
    from vtp_plugins.probe_gen.record import Record

TINY = {
    "steps": 2, "rows": 8, "images": 64, "samples": 64, "euler_steps": 2, "width": 16, "depth": 1, "heads": 2,
    "weights": "random", "resize": 32,
}  # fmt: skip


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Trains the tokenizers, `bench.jobs` at once, and a proxy on each; then the further proxies.

    A tokenizer goes on from its checkpoint. A proxy takes minutes and is not started if the last one took
    longer than what is left of the budget.

    Returns:
        The runs that lack a record or a proxy.
    """
    bench.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget if budget is not None else float("inf")
    torch.set_num_threads(bench.threads * bench.jobs)
    proxies = Proxies(bench, end)
    for start in range(0, len(runs), bench.jobs):
        turn = runs[start : start + bench.jobs]
        for run in turn:
            link_first(run, runs, bench)
        with _left_out():
            if make_runs(turn, bench, end - time.monotonic() if budget is not None else None):
                break
        for run in turn:
            with _left_out(run):
                proxies.measure(run, proxy_seeds(run.arm.name)[:1])
    else:
        for run in runs:
            with _left_out(run):
                proxies.measure(run, proxy_seeds(run.arm.name))
    return [run for run in runs if missing(run, bench)]


@contextmanager
def _left_out(run: Run | None = None) -> Iterator[None]:
    """Says what went wrong, so that one tokenizer doesn't hold up the others."""
    try:
        yield
    except (click.ClickException, VtpError) as error:
        click.echo(f"{f'{run.name}: ' if run is not None else ''}left out; {error}")


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


class Proxies:
    """Measures proxies; the real images are looked at once.

    Args:
        bench: Where runs and records are.
        end: `time.monotonic` at the end of the budget.
    """

    def __init__(self, bench: Bench, end: float) -> None:
        self._bench = bench
        self._end = end
        self._longest = 0.0
        self._probe: Probe | None = None

    def measure(self, run: Run, seeds: Sequence[int]) -> None:
        """Adds the proxies of these seeds to the run's record, as far as they are missing and time allows."""
        subject: Subject | None = None
        if not self._bench.result(run).exists():
            return
        for seed in [seed for seed in missing(run, self._bench) if seed in seeds]:
            if time.monotonic() + self._longest >= self._end:
                return
            began = time.monotonic()
            subject = subject or self._subject(run)
            found = subject.measure(seed)
            self._longest = max(self._longest, time.monotonic() - began)
            record = read_record(self._bench.result(run))
            write_record(with_proxy(record, found), self._bench.result(run))
            click.echo(f"{run.name}: proxy {seed}, kernel distance {found.final.kernel:.4g}")

    def _subject(self, run: Run) -> Subject:
        """The run's tokenizer.

        Raises:
            ClickException: It is gone.
        """
        from vtp_core.artefact.loading import load
        from vtp_core.plugins import load_plugins

        folder = self._bench.work / run.name
        if not (folder / "tokenizer").is_dir():
            raise click.ClickException(
                f"{folder / 'tokenizer'} is gone; remove {self._bench.result(run)} to train it again"
            )
        if self._probe is None:
            self._probe = open_probe(run, self._bench)
        return self._probe.subject(load(folder / "tokenizer", plugins=load_plugins()), run.name)


def open_probe(run: Run, bench: Bench) -> Probe:
    """The protocol on the training images of a run: those of all runs of the study."""
    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.opening import open_set
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe import load_recipe
    from vtp_core.run.records import RunFolder
    from vtp_plugins.probe_gen.measure import Probe

    plugins = load_plugins()
    table = load_recipe(RunFolder(bench.work / run.name).recipe, plugins=plugins).data
    data = open_set(table.source, Sources(plugins, table.decode))
    return Probe(data, settings_of(run), torch.device("cpu"))


def settings_of(run: Run) -> ProbeSettings:
    """Those of the protocol; tiny ones of tiny arms."""
    from vtp_plugins.probe_gen.config import ProbeSettings

    return ProbeSettings.model_validate(TINY if is_tiny(run.arm) else {})


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
        for name, kind in ((KERNEL, "kernel"), (FRECHET, "frechet")):
            values = {
                part: getattr(distance, kind)
                for part, distance in (
                    ("samples", found.final), ("gaussian", found.gaussian), ("own", found.reconstruction)
                )
            }  # fmt: skip
            about = {"higher_is_better": False, "protocol": found.protocol}
            if values["samples"] is not None:
                metrics[name] = {"value": values["samples"], "baseline": values["gaussian"], **about}
                metrics[name]["baseline_name"] = "Gaussian latents"
            if values["own"] is not None:
                metrics[f"reconstruction_{kind}"] = {"value": values["own"], **about}
        metrics["channels"] = {"value": float(found.channels)}
    return {**record, "metrics": metrics, "proxies": proxies}
