"""Puts the distances of `vtp probe-gen` into the records: one proxy generator a tokenizer."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
import torch

from benchmarks.study.arm import Run
from benchmarks.study.record import read_record, write_record
from benchmarks.study.runner import Bench
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_plugins.probe_gen.measure import Probe
    from vtp_plugins.probe_gen.record import Record

KERNEL = "probe_gen_kernel"
FRECHET = "probe_gen_frechet"
OWN = "reconstruction_kernel"
"""Kernel distance of reconstructions: what a perfect generator of the latents would reach."""

TINY = {
    "steps": 2, "rows": 8, "images": 64, "samples": 64, "euler_steps": 2, "width": 16, "depth": 1, "heads": 2,
    "weights": "random", "resize": 32,
}  # fmt: skip


class Proxies:
    """Measures proxies; the real images, all training images of the data, are looked at once.

    Args:
        bench: Where runs and records are.
        end: `time.monotonic` at the end of the budget.
        tiny: Whether proxies are tiny.
    """

    def __init__(self, bench: Bench, end: float, *, tiny: bool) -> None:
        self._bench = bench
        self._end = end
        self._settings = TINY if tiny else {}
        self._longest = 0.0
        self._probe: Probe | None = None

    def measure(self, run: Run) -> bool:
        """Adds the proxy to the run's record, unless it is there; False if there is no time for it."""
        from vtp_core.artefact.loading import load
        from vtp_core.plugins import load_plugins

        path = self._bench.result(run)
        record = read_record(path)
        if KERNEL in record["metrics"]:
            return True
        if time.monotonic() + self._longest >= self._end:
            return False
        folder = self._bench.work / f"{record['run_folder']}" / "tokenizer"
        if not folder.is_dir():
            click.echo(f"{run.name}: {folder} is gone; remove {path} to train it again")
            return True
        began = time.monotonic()
        try:
            self._probe = self._probe or self._open()
            found = self._probe.subject(load(folder, plugins=load_plugins()), run.name).measure(0)
        except VtpError as error:
            click.echo(f"{run.name}: its proxy is left out; {error}")
            return True
        self._longest = max(self._longest, time.monotonic() - began)
        record["metrics"].update(proxy_metrics(found))
        write_record(record, path)
        click.echo(f"{run.name}: kernel distance of its proxy {found.final.kernel:.4g}")
        return True

    def _open(self) -> Probe:
        """The protocol on all training images: those that the study's command names, not an arm's part."""
        from vtp_core.data.opening import Sources
        from vtp_core.evaluation.opening import open_set
        from vtp_core.plugins import load_plugins
        from vtp_core.recipe.toml_values import parse_toml
        from vtp_plugins.probe_gen.config import ProbeSettings
        from vtp_plugins.probe_gen.measure import Probe

        plugins = load_plugins()
        values: dict[str, Any] = {"use": "samples", "split": "train"}
        for override in self._bench.overrides:
            key, _, text = override.partition("=")
            if key == "data.source":
                values = parse_toml(f"value = {text}")["value"]
        config = plugins.find("source", values["use"]).load_config().model_validate_json(json.dumps(values))
        data = open_set(config, Sources(plugins), None)
        return Probe(data, ProbeSettings.model_validate(self._settings), torch.device("cpu"))


def proxy_metrics(found: Record) -> dict[str, dict[str, Any]]:
    """A proxy's distances as metrics of a record."""
    metrics = {}
    for name, kind in ((KERNEL, "kernel"), (FRECHET, "frechet")):
        value, gaussian = getattr(found.final, kind), getattr(found.gaussian, kind)
        if value is not None:
            metrics[name] = {
                "value": value, "baseline": gaussian, "baseline_name": "Gaussian latents",
                "higher_is_better": False, "protocol": found.protocol,
            }  # fmt: skip
    metrics[OWN] = {
        "value": found.reconstruction.kernel,
        "higher_is_better": False,
        "protocol": found.protocol,
    }
    return metrics
