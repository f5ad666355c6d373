"""`python -m benchmarks CASE...`: times cases and prints or writes their reports."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click
import torch

from benchmarks.case import CaseError, load, names
from benchmarks.measure import clock_for, compare, measure
from benchmarks.report import markdown, result


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--list", "list_cases", is_flag=True, help="List the cases and their questions.")
@click.option("--rounds", default=20, show_default=True, help="Timed blocks of each variant.")
@click.option("--threads", default=1, show_default=True, help="Threads a variant may use.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all results to this file.")
@click.option("--reports", type=click.Path(path_type=Path), help="Write a markdown report a case here.")
def main(
    cases: tuple[str, ...],
    list_cases: bool,
    rounds: int,
    threads: int,
    json_file: Path | None,
    reports: Path | None,
) -> None:
    """Time CASES, or all of them."""
    if list_cases:
        for name in names():
            click.echo(f"{name}: {load(name).question}")
        return
    torch.set_num_threads(threads)
    clock, clock_name = clock_for(threads)
    today = datetime.date.today().isoformat()
    results = []
    for name in cases or names():
        try:
            case = load(name)
            compare(case)
            timings = measure(case, rounds, clock)
        except CaseError as error:
            raise click.ClickException(str(error)) from error
        found = result(case, timings, clock_name, threads, today)
        results.append(found)
        click.echo(markdown(found))
        if reports is not None:
            reports.mkdir(parents=True, exist_ok=True)
            (reports / f"{name}_{today}.md").write_text(markdown(found))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
