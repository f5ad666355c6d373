"""`python -m benchmarks.large_batch`: one contrastive step over more rows than fit at once.

A nano model at 32 pixels with ``run.microbatch_rows``: features of all rows are cached, the loss is that of
the whole batch, and each chunk runs a second time for its gradient. Prints the peak resident set.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from vtp_core import installation
from vtp_core.batch import Batch
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.setup import build
from vtp_core.training.joint import JointStep
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.world import World

PIXELS, CONTEXT = 32, 16

_RECIPE = """\
schema = 1
name = "large_batch"
run = {{ steps = 1000, microbatch_rows = {chunk} }}
data.source = {{ use = "samples", split = "train" }}
views.image = {{ rows = {rows}, size = {pixels}, augment = "clip" }}
encoder = {{ use = "vit", preset = "nano", patch = 8 }}
bottleneck = {{ use = "linear", channels = 16 }}
decoder = {{ use = "vit", preset = "nano" }}
optimizer.lr = 1e-3
objectives.clip = {{ use = "clip", view = "image", width = 96, depth = 2, heads = 3, context = {context}, \
merges = 1000 }}
objectives.l1 = {{ use = "l1", view = "image", rows = 64 }}
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a step took.

    Attributes:
        rows: Rows of the step.
        chunk: Rows that go through a network at a time.
        loss: The contrastive loss before the step; ln(rows) for chance.
        cpu_seconds: CPU time of the process for the step.
        rest_mib: Resident set before the step, batch included.
        peak_mib: Most that was ever resident.
        load: The machine's load.
    """

    rows: int
    chunk: int
    loss: float
    cpu_seconds: float
    rest_mib: float
    peak_mib: float
    load: float


def run(rows: int, chunk: int) -> Measured:
    """Makes one whole step, update included, on uint8 noise with distinct captions."""
    plugins, world = load_plugins(), World()
    with tempfile.TemporaryDirectory(prefix="vtp-bench-") as folder:
        path = Path(folder) / "large_batch.toml"
        path.write_text(_RECIPE.format(rows=rows, chunk=chunk, pixels=PIXELS, context=CONTEXT))
        recipe = load_recipe(path, (), plugins)
    networks, _ = build.build_run_networks(recipe, plugins)
    optimizer, _ = build.build_optimizers(networks, recipe, plugins)
    guard = Guard(0)
    update = Update(networks, world, optimizer, None, guard, recipe.run.steps)
    joint = JointStep(networks, world, build.forward_options(recipe), update, guard=guard)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, 1, 3, PIXELS, PIXELS), dtype=torch.uint8, generator=draw)
    batch = Batch(
        crops={"global": pixels},
        keys=tuple(map(str, range(rows))),
        text=tuple(f"drawing {row}" for row in range(rows)),
        rows=rows,
    )
    rest, start = _resident_mib(), time.process_time()
    result = joint({"image": batch}, 0)
    if result.skipped is not None:
        raise click.ClickException(f"the step was skipped: {result.skipped}")
    return Measured(
        rows=rows,
        chunk=chunk,
        loss=result.terms["clip/contrast"],
        cpu_seconds=time.process_time() - start,
        rest_mib=rest,
        peak_mib=_peak_mib(),
        load=os.getloadavg()[0],
    )


def _peak_mib() -> float:
    """Most memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux a process starts with the peak of the one that started it.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def report(found: Measured) -> str:
    """Markdown."""
    host = installation.machine()
    return "\n".join(
        (
            "# large_batch",
            "",
            "Does a contrastive step over many rows fit into little memory?",
            "",
            "| rows | rows a chunk | loss | CPU s | resident before, MiB | peak resident, MiB |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| {found.rows:,} | {found.chunk} | {found.loss:.4f} | {found.cpu_seconds:.0f} "
            f"| {found.rest_mib:.0f} | {found.peak_mib:.0f} |",
            "",
            f"- {datetime.date.today().isoformat()}; nano model, {PIXELS} pixels, float32, one process, "
            f"{torch.get_num_threads()} thread(s); forward, backward and update.",
            f"- The machine was shared: load {found.load:.0f}.",
            f"- {host['processor']}, {host['usable_cores']} cores, {host['memory_gib']} GiB.",
            "",
        )
    )


@click.command()
@click.option("--rows", default=16_384, show_default=True)
@click.option("--chunk", default=512, show_default=True, help="Rows that go through a network at a time.")
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@click.option("--reports", type=click.Path(path_type=Path), help="Write the report here.")
def main(rows: int, chunk: int, threads: int, as_json: bool, reports: Path | None) -> None:
    """Make one contrastive step in chunks and show its peak memory."""
    torch.set_num_threads(threads)
    found = run(rows, chunk)
    click.echo(json.dumps(asdict(found)) if as_json else report(found))
    if reports is not None:
        reports.mkdir(parents=True, exist_ok=True)
        (reports / f"large_batch_{datetime.date.today().isoformat()}.md").write_text(report(found))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.large_batch")
