"""`vtp bench`: times operators and tokenizers and prints a table. Imports no torch until it runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import check_device, json_file_option
from vtp_core.cli.output import STDOUT, check_file
from vtp_core.errors import UsageError

CASE_NAMES = ("nearest_code", "attention", "vq_step", "encode", "decode")


@click.command()
@click.argument("case", type=click.Choice(CASE_NAMES))
@click.option("--shapes", help="Comma-separated; by default those of the case.")
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help='"cpu" or "cuda".')
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--rounds", type=click.IntRange(min=2), default=10, show_default=True, help="Timed blocks each."
)
@click.option("--peers/--no-peers", default=True, help="Also time other libraries.")
@click.option(
    "--only", help="Comma-separated parts of names: leave out the other variants, but not the first."
)
@click.option("--memory", is_flag=True, help="Count allocations in child processes: peak bytes of a call.")
@json_file_option
@click.option("--report", type=click.Path(path_type=Path), help="Write the tables to this markdown file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw a .png or .svg (needs matplotlib).")
def bench(
    case: str,
    shapes: str | None,
    precision: str,
    device: str,
    threads: int,
    rounds: int,
    peers: bool,
    only: str | None,
    memory: bool,
    json_file: Path | None,
    report: Path | None,
    plot: Path | None,
) -> None:
    """Time CASE against every installed peer, interleaved, and print a table a shape.

    With one thread times are CPU time of the thread, so other work on the machine matters little; with more
    they are wall time: leave the machine alone.
    """
    check_device(device)
    files = {"--json": json_file, "--report": report, "--plot": plot}
    for option, path in files.items():
        check_file(option, path)
    from vtp_plugins.bench.case import CaseError, load, select
    from vtp_plugins.bench.case import shapes as shapes_of
    from vtp_plugins.bench.config import BenchOptions
    from vtp_plugins.bench.report import markdown, table
    from vtp_plugins.bench.runner import Runner

    if plot is not None:
        from vtp_plugins.bench.plot import check

        check(plot)
    options = BenchOptions(
        precision="bfloat16" if precision == "bfloat16" else "float32",
        device=device,
        threads=threads,
        peers=peers,
    )
    results = []
    try:
        runner = Runner(options, rounds)
        for shape in shapes.split(",") if shapes else shapes_of(case):
            built = load(case, shape.strip(), options)
            found = runner.run(select(built, only.split(",")) if only else built, memory=memory)
            results.append(found)
            click.echo("\n".join(table(found)), err=json_file == STDOUT)
    except CaseError as error:
        raise UsageError(str(error)) from error
    click.echo("\n".join(markdown(results).splitlines()[-6:]), err=json_file == STDOUT)
    for path in files.values():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if json_file is not None:
        with click.open_file(str(json_file), "w") as file:
            file.write(json.dumps(results, indent=2) + "\n")
    if report is not None:
        report.write_text(markdown(results))
    if plot is not None:
        from vtp_plugins.bench.plot import draw

        draw(results, plot)
