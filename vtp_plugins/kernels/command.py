"""`vtp kernels`: lists, builds and measures the implementations of the operators."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from vtp_core.cli.output import table
from vtp_core.errors import UsageError
from vtp_plugins.kernels.native.build import build as compile_module
from vtp_plugins.kernels.native.build import library, obstacle, record
from vtp_plugins.kernels.native.compiler import BuildFailed
from vtp_plugins.kernels.native.sources import PACKAGE, csrc
from vtp_plugins.kernels.tuning.command import tune
from vtp_plugins.kernels.tuning.results import cache_folder

# Loads a module in a new process and prints what it offers.
PROBE = {
    "_C_cpu": "import torch, vtp_plugins.kernels._C_cpu; print(torch.ops.vtp_cpu.isa())",
    "_C_cuda": "import torch, vtp_plugins.kernels._C_cuda; print('loaded')",
}


@click.group()
def kernels() -> None:
    """List, build and measure the implementations of search and attention."""


@kernels.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List what can run here, and what "auto" takes.

    Each implementation of an operator is listed with the reason why it can't run, if it can't.
    """
    from vtp_plugins.kernels.listing import (
        automatic,
        implementations,
        instruction_set,
        measurements,
        native_modules,
    )

    found, choices, isa, modules = implementations(), automatic(), instruction_set(), native_modules()
    measured = measurements()
    if as_json:
        facts = {
            "kernels": found,
            "auto": choices,
            "cpu_isa": isa,
            "native": modules,
            "measured": measured,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    rows: list[tuple[str, ...]] = [("operator", "name", "device", "state")]
    rows += [(it["operator"], it["name"], it["device"] or "any", it["missing"] or "ready") for it in found]
    click.echo(table(rows))
    click.echo("")
    for it in modules:
        click.echo(f"{it['module']:<9}{'built' if it['built'] else 'not built: ' + it['reason']}")
    click.echo(f"\ninstruction set of native kernels on this CPU: {isa}\n")
    click.echo(table([("auto takes", "device", "dtype", "name"), *(tuple(it.values()) for it in choices)]))
    click.echo("")
    for it in measured:
        click.echo(f"{it['device']} ({it['name']}): {it['state']}")


@kernels.command("build")
@click.option("--cuda", is_flag=True, help="Fail if the CUDA kernels can't be built.")
@click.option(
    "--only", type=click.Choice(("cpu", "cuda")), help="Leave the kernels for the other as they are."
)
@click.option("--verbose", is_flag=True, help="Print all that a failing compiler says.")
def build(cuda: bool, only: str | None, verbose: bool) -> None:
    """Compile the native kernels for this torch.

    They are written beside the package.

    Needs a C++ compiler; the CUDA kernels are built too if nvcc and a torch with CUDA are there. Object files
    are kept in build/ of the sources, or in the cache folder of an installed package, so that only what
    changed is compiled again.
    """
    if not os.access(PACKAGE, os.W_OK):
        raise UsageError(f"{PACKAGE} is not writable: install vtp-core in an environment of your own")
    for module, needed in (("_C_cpu", True), ("_C_cuda", cuda or only == "cuda")):
        if only is not None and not module.endswith(only):
            continue
        reason = obstacle(module)
        kept = reason is not None and library(module).is_file()
        if reason is None:
            reason = _build(module, verbose=verbose)
        if not kept:  # with an obstacle nothing was tried: what an earlier build made stays
            record(PACKAGE, {module: reason})
        if reason is not None and needed:
            raise UsageError(f"{module} is {_outcome(reason, kept=kept)}")
        click.echo(f"{module}  {_outcome(reason, kept=kept) if reason else library(module)}")
        if module == "_C_cuda" and reason is None:
            click.echo("auto takes the CUDA kernels where they were measured: vtp kernels tune")


kernels.add_command(tune)


def _outcome(reason: str, *, kept: bool) -> str:
    return f"not built again: {reason}; the earlier library stays" if kept else f"not built: {reason}"


def _build(module: str, *, verbose: bool) -> str | None:
    """Builds a module and tries it in a new process; the reason if either fails."""
    try:
        with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".build-") as folder:
            made = library(module, Path(folder))
            compile_module(module, made, object_folder(), gpus_here() if module == "_C_cuda" else "")
            made.replace(library(module))
    except BuildFailed as error:
        if verbose:
            click.echo(str(error), err=True)
        return str(error).partition("\n")[0]
    command = [sys.executable, "-c", PROBE[module]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        return f"built, but a new process can't load it: {(done.stderr.splitlines() or ['it died'])[-1]}"
    return None


def object_folder() -> Path:
    """Folder of object files, kept between builds."""
    if csrc() != PACKAGE / "csrc":
        return csrc().parent / "build/native"
    return cache_folder() / "native"


def gpus_here() -> str:
    """The architectures of this machine's GPUs, as in TORCH_CUDA_ARCH_LIST; empty if there are none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = {torch.cuda.get_device_capability(index) for index in range(count)}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))
