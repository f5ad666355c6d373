"""The commands that every study has: run, status, table, plot, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.study.arm import Arm, Run, runs_of
from benchmarks.study.claim import Finding
from benchmarks.study.data import data_overrides
from benchmarks.study.results import Results, read_results
from benchmarks.study.runner import Bench, make_runs
from benchmarks.study.table import Column, markdown, plot


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study.

    Attributes:
        name: Its name, that of its package.
        arms: Makes its arms; True asks for tiny ones, which show that everything works and nothing else.
        columns: Metrics in tables and plots.
        judge: Writes the verdict.
        folder: Its package's folder, where `results/` lies.
        plugins: Files of plugins that its recipes need.
        measure: Gives further metrics of a finished run's folder.
        data: Gives the data's name, and overrides that say where it is.
        make: Makes the runs that are missing and returns those that are left.
        draw: Draws the plot.
        findings: What the records say, by name, for the ledger of claims; beside comparisons of two arms.
    """

    name: str
    arms: Callable[[bool], Sequence[Arm]]
    columns: tuple[Column, ...]
    judge: Callable[[Results], str]
    folder: Path
    plugins: tuple[Path, ...] = ()
    measure: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    data: Callable[[Path | None], tuple[str, tuple[str, ...]]] = data_overrides
    make: Callable[[Sequence[Run], Bench, float | None], list[Run]] = make_runs
    draw: Callable[[str, Results, tuple[Column, ...], Path], None] = plot
    findings: Callable[[Results], Mapping[str, Finding]] = lambda found: {}


def choose(runs: Sequence[Run], only: str | None, seeds: str | None) -> list[Run]:
    """The runs of these arms and seeds, each a comma-separated list; None: all.

    Raises:
        ClickException: An arm or seed that the study lacks.
    """
    arms = [name.strip() for name in only.split(",")] if only else None
    known = {run.arm.name for run in runs}
    if arms is not None and (unknown := sorted(set(arms) - known)):
        raise click.ClickException(f"--only: no arm {unknown[0]!r}; there are {', '.join(sorted(known))}")
    numbers = [seed.strip() for seed in seeds.split(",")] if seeds else None
    if numbers is not None and (unknown := sorted(set(numbers) - {str(run.seed) for run in runs})):
        raise click.ClickException(f"--seeds: no run has seed {unknown[0]!r}")
    return [
        run
        for run in runs
        if (arms is None or run.arm.name in arms) and (numbers is None or str(run.seed) in numbers)
    ]


def study_command(study: Study) -> click.Group:
    """The command line of a study."""

    @click.group(help=f"{study.name}: {study.folder / 'README.md'} says what it asks.")
    @click.option("--tiny", is_flag=True, help="Tiny runs of a few steps: whether it works, no result.")
    @click.option("--results", type=click.Path(path_type=Path), help="Folder of the records.")
    @click.pass_context
    def group(context: click.Context, tiny: bool, results: Path | None) -> None:
        if tiny and results is None and context.invoked_subcommand == "run":
            raise click.UsageError("--tiny needs --results: its records must not lie among the real ones")
        context.obj = (study.arms(tiny), results or study.folder / "results")

    @group.command()
    @click.option("--data", type=click.Path(path_type=Path), help="CIFAR-10 shards; without: the samples.")
    @click.option("--work", type=click.Path(path_type=Path), help=f"Run folders [runs/{study.name}].")
    @click.option("--only", help="Arms, separated by commas.")
    @click.option("--seeds", help="Seeds, separated by commas.")
    @click.option("--budget", type=click.FloatRange(min=0), help="Hours; then everything is stopped.")
    @click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of a run.")
    @click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once.")
    @click.pass_obj
    def run(
        arms_and_results: tuple[Sequence[Arm], Path],
        data: Path | None,
        work: Path | None,
        only: str | None,
        seeds: str | None,
        budget: float | None,
        threads: int,
        jobs: int,
    ) -> None:
        """Make the runs that are missing; run again, it resumes where it was stopped."""
        arms, results = arms_and_results
        name, overrides = study.data(data)
        bench = Bench(
            study=study.name,
            data=name,
            overrides=overrides,
            work=work or Path("runs") / study.name,
            results=results,
            threads=threads,
            jobs=jobs,
            plugins=study.plugins,
            measure=study.measure,
        )
        left = study.make(
            choose(runs_of(arms), only, seeds), bench, None if budget is None else budget * 3600
        )
        click.echo(f"{len(left)} of the chosen runs are left" if left else "all chosen runs are there")

    @group.command()
    @click.pass_obj
    def table(arms_and_results: tuple[Sequence[Arm], Path]) -> None:
        """Print the results, and what is missing, as markdown."""
        click.echo(markdown(study.name, read_results(*arms_and_results), study.columns), nl=False)

    @group.command("plot")
    @click.argument("file", type=click.Path(path_type=Path))
    @click.pass_obj
    def draw(arms_and_results: tuple[Sequence[Arm], Path], file: Path) -> None:
        """Draw the results to FILE (.png, .svg or .pdf)."""
        study.draw(study.name, read_results(*arms_and_results), study.columns, file)
        click.echo(file)

    @group.command()
    @click.pass_obj
    def verdict(arms_and_results: tuple[Sequence[Arm], Path]) -> None:
        """Say what the results show, and what they don't."""
        click.echo(study.judge(read_results(*arms_and_results)), nl=False)

    return group
