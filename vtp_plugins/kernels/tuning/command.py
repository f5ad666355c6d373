"""`vtp kernels tune`. Imports no torch until it runs."""

from __future__ import annotations

import datetime
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.options import check_device, json_file_option
from vtp_core.cli.output import STDOUT, check_file
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    import torch


@click.command()
@click.option("--device", help='"cpu", "cuda" or "cuda:1"; default: CUDA if there is a device.')
@click.option("--rounds", type=click.IntRange(min=2), default=5, show_default=True, help="Timed blocks each.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="On a CPU.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Measure no further shape after this time.")
@json_file_option
def tune(
    device: str | None, rounds: int, threads: int, seconds: float | None, json_file: Path | None
) -> None:
    """Measure every implementation that a device can run.

    Each must agree with the reference first: one that doesn't is named and left out. The results go to the
    user's cache folder, where `auto` finds the fastest on CUDA devices; on CPUs they are for information.
    """
    if device is not None:
        check_device(device)
    check_file("--json", json_file)
    from vtp_plugins.kernels.tuning import session
    from vtp_plugins.kernels.tuning.key import key_of
    from vtp_plugins.kernels.tuning.problem import CHOICES
    from vtp_plugins.kernels.tuning.results import write_results
    from vtp_plugins.kernels.tuning.table import as_data, otherwise, tables

    say = partial(click.echo, err=json_file == STDOUT)
    asked = _device(device)
    measurement = session.Session(
        str(asked), session.all_shapes(), rounds=rounds, threads=threads, seconds=seconds, tell=say
    )
    measurement.run()
    if all(it.skipped is not None for it in measurement.measured):
        raise UsageError(f"nothing could be measured on {asked}; the lines above say why")
    for text in tables(measurement.measured):
        say(f"\n{text}")
    data = {
        "date": datetime.date.today().isoformat(),
        "torch_device": str(asked),
        **{operator: measurement.ranking(operator).data() for operator in CHOICES},
        "measured": as_data(measurement.measured),
    }
    key = key_of(asked)
    path = write_results(key, data)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        with click.open_file(str(json_file), "w") as file:
            file.write(json.dumps({"key": key, **data}, indent=2) + "\n")
    say(f"\n{path}")
    if asked.type == "cuda":
        say("[kernels] auto takes the fastest of these from now on; runs in progress keep theirs.")
        return
    lines = otherwise(measurement.measured, asked)
    say(
        "On CPUs [kernels] auto keeps its order by instruction set; "
        + (f"{len(lines)} shapes were faster otherwise:" if lines else "it was the fastest at every shape.")
    )
    for line in lines:
        say(f"  {line}")


def _device(name: str | None) -> torch.device:
    """The device of that name, with its index.

    Raises:
        UsageError: torch sees no such device.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if there else "cpu"))
    if device.type == "cpu":
        return torch.device("cpu")
    index = device.index or 0
    if device.type != "cuda" or index >= there:
        raise UsageError(f"--device {name}: torch sees {there} CUDA devices here; vtp doctor lists them")
    return torch.device("cuda", index)
