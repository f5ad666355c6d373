"""Proxies of `vtp probe-gen` on the tokenizers of a study, in processes of their own. Imports no torch."""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.study.runner import Bench
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_plugins.probe_gen.measure import Probe, Subject
    from vtp_plugins.probe_gen.record import Record

KERNEL = "probe_gen_kernel"
FRECHET = "probe_gen_frechet"

TINY = {
    "steps": 2, "rows": 8, "images": 64, "samples": 64, "euler_steps": 2, "width": 16, "depth": 1, "heads": 2,
    "weights": "random", "resize": 32,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """A proxy to train.

    Attributes:
        name: Of the run.
        tokenizer: Its folder.
        seed: Of the proxy.
        curve: Whether it is measured at five training steps, not only at the end.
    """

    name: str
    tokenizer: Path
    seed: int
    curve: bool = False


class ProxyPool:
    """`bench.jobs` processes of `bench.threads` threads; each measures the real images once.

    One thread a process: with two threads in one, a third of the time is spent waiting.

    Args:
        bench: Its `overrides` name the data.
        end: `time.monotonic` at the end of the budget.
        stop: Once set, proxies that have not begun are left.
        tiny: Whether proxies are tiny.
    """

    def __init__(self, bench: Bench, end: float, stop: threading.Event, *, tiny: bool) -> None:
        self._stop = stop
        self._pool = ProcessPoolExecutor(
            bench.jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(bench.overrides, TINY if tiny else {}, bench.threads, end),
        )

    def __enter__(self) -> ProxyPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Record]]:
        """Trains and measures proxies, and gives each when it is done.

        One that fails is left out with a message. A proxy takes minutes and is not started if the last one of
        its process took longer than what is left of the budget.
        """
        futures = {self._pool.submit(_measure, request): request for request in requests}
        for future in as_completed(futures):
            if self._stop.is_set():
                for other in futures:
                    other.cancel()
            if future.cancelled():
                continue
            request, found = futures[future], future.result()
            if isinstance(found, str):
                click.echo(f"{request.name}: proxy {request.seed} is left out; {found}")
            elif found is not None:
                click.echo(f"{request.name}: proxy {request.seed}, kernel distance {found.final.kernel:.4g}")
                yield request, found


def proxy_metrics(found: Record) -> dict[str, dict[str, Any]]:
    """A proxy's distances as metrics of a record."""
    metrics: dict[str, dict[str, Any]] = {}
    about = {"higher_is_better": False, "protocol": found.protocol}
    for name, kind in ((KERNEL, "kernel"), (FRECHET, "frechet")):
        value, gaussian, own = (
            getattr(distance, kind) for distance in (found.final, found.gaussian, found.reconstruction)
        )
        if value is not None:
            metrics[name] = {
                "value": value,
                "baseline": gaussian,
                "baseline_name": "Gaussian latents",
                **about,
            }
        if own is not None:
            metrics[f"reconstruction_{kind}"] = {"value": own, **about}
    return metrics


class _Worker:
    """What a process keeps from one proxy to the next."""

    def __init__(self, overrides: Iterable[str], settings: Mapping[str, Any], end: float) -> None:
        self._overrides = overrides
        self._settings = settings
        self._end = end
        self._longest = 0.0
        self._probe: Probe | None = None
        self._subject: tuple[Path, Subject] | None = None

    def measure(self, request: Request) -> Record | str | None:
        """A proxy; what went wrong; None: there is no time for it."""
        began = time.monotonic()
        if began + self._longest >= self._end:
            return None
        if not request.tokenizer.is_dir():
            return f"{request.tokenizer} is gone; remove the run's record to train it again"
        try:
            found = self._open(request).measure(request.seed, curve=request.curve)
        except VtpError as error:
            return str(error)
        self._longest = max(self._longest, time.monotonic() - began)
        return found

    def _open(self, request: Request) -> Subject:
        """The tokenizer, encoded once for all its seeds."""
        from vtp_core.artefact.loading import load
        from vtp_core.plugins import load_plugins

        if self._subject is None or self._subject[0] != request.tokenizer:
            self._probe = self._probe or open_probe(self._overrides, self._settings)
            tokenizer = load(request.tokenizer, plugins=load_plugins())
            self._subject = (request.tokenizer, self._probe.subject(tokenizer, request.name))
        return self._subject[1]


def open_probe(overrides: Iterable[str], settings: Mapping[str, Any]) -> Probe:
    """The protocol on the training images that a study's overrides name, not on an arm's part of them."""
    import torch

    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.opening import open_set
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe.toml_values import parse_toml
    from vtp_plugins.probe_gen.config import ProbeSettings
    from vtp_plugins.probe_gen.measure import Probe

    plugins = load_plugins()
    values: dict[str, Any] = {"use": "samples", "split": "train"}
    for override in overrides:
        key, _, text = override.partition("=")
        if key == "data.source":
            values = parse_toml(f"value = {text}")["value"]
    config = plugins.find("source", values["use"]).load_config().model_validate_json(json.dumps(values))
    data = open_set(config, Sources(plugins), None)
    return Probe(data, ProbeSettings.model_validate(settings), torch.device("cpu"))


_worker: _Worker | None = None


def _start(overrides: tuple[str, ...], settings: Mapping[str, Any], threads: int, end: float) -> None:
    import torch

    global _worker
    # The terminal's Ctrl-C reaches these processes too; the study decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _worker = _Worker(overrides, settings, end)


def _measure(request: Request) -> Record | str | None:
    assert _worker is not None
    return _worker.measure(request)
