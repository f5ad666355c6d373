"""`python -m benchmarks CASE...`: times cases and prints or writes their reports.

The runner and the cases of `vtp bench` live in `vtp_plugins/bench`; `benchmarks/cases` adds those that only
the project itself needs.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_plugins.bench.case import CASES, CaseError, load, names, shapes
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.report import markdown
from vtp_plugins.bench.runner import Runner

PACKAGES = (CASES, "benchmarks.cases")


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--list", "list_cases", is_flag=True, help="List the cases and their shapes.")
@click.option("--shapes", "chosen", help="Comma-separated; by default those of each case.")
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32", show_default=True)
@click.option("--rounds", default=20, show_default=True, help="Timed blocks of each variant.")
@click.option("--threads", default=1, show_default=True, help="Threads a variant may use.")
@click.option("--memory", is_flag=True, help="Count allocations too.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all results to this file.")
@click.option("--reports", type=click.Path(path_type=Path), help="Write a markdown report a case here.")
def main(
    cases: tuple[str, ...],
    list_cases: bool,
    chosen: str | None,
    precision: str,
    rounds: int,
    threads: int,
    memory: bool,
    json_file: Path | None,
    reports: Path | None,
) -> None:
    """Time CASES, or all of them."""
    if list_cases:
        for name in names(PACKAGES):
            click.echo(f"{name}: {', '.join(shapes(name, PACKAGES))}")
        return
    options = BenchOptions(precision="bfloat16" if precision == "bfloat16" else "float32", threads=threads)
    runner = Runner(options, rounds, PACKAGES)
    everything = []
    for name in cases or names(PACKAGES):
        try:
            asked = chosen.split(",") if chosen else shapes(name, PACKAGES)
            results = [
                runner.run(load(name, shape.strip(), options, PACKAGES), memory=memory) for shape in asked
            ]
        except CaseError as error:
            raise click.ClickException(str(error)) from error
        everything += results
        click.echo(markdown(results))
        if reports is not None:
            reports.mkdir(parents=True, exist_ok=True)
            suffix = "" if precision == "float32" else f"_{precision}"
            suffix += "" if threads == 1 else f"_{threads}_threads"
            date = runner.circumstances.date
            (reports / f"{name}{suffix}_{date}.md").write_text(markdown(results))
    if json_file is not None:
        json_file.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
