"""``vtp scale``: trains a grid of recipes and fits metrics against compute. Imports no torch itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.options import json_option, plugin_option, set_option
from vtp_core.cli.output import check_file, check_folder
from vtp_core.errors import Preempted, UsageError, VtpError

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_plugins.scale.cost import Costs
    from vtp_plugins.scale.runner import Bench
    from vtp_plugins.scale.runs import Run


class RunsFailed(VtpError):
    """Some runs of a grid failed; the exit code is that of the first one."""

    def __init__(self, message: str, code: int) -> None:
        self.exit_code = code
        super().__init__(message)


class _Lazy:
    """Costs of runs; torch is imported with the first one."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._costs: Costs | None = None

    def __call__(self, run: Run) -> Mapping[str, float]:
        if self._costs is None:
            from vtp_plugins.scale.cost import Costs

            self._costs = Costs(self._plugins)
        return self._costs.of(run).data()


@click.command()
@click.argument("grid_file", metavar="GRID.toml", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="List the runs with their state and cost, and train nothing.")
@click.option("--no-run", is_flag=True, help="Train nothing: report what is there.")
@click.option("--budget", type=click.FloatRange(min=0), metavar="MINUTES", help="Then everything is stopped.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run.")
@click.option(
    "--plot", "plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Write the figure here."
)
@set_option
@plugin_option
@json_option
def scale(
    grid_file: Path,
    dry_run: bool,
    no_run: bool,
    budget: float | None,
    jobs: int,
    threads: int | None,
    plot: Path | None,
    overrides: tuple[str, ...],
    plugin_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Train the runs of GRID.toml, then fit metrics against forward training FLOPs.

    Each run is an ordinary run folder. Run again, the command leaves finished runs alone and resumes
    the others. The report is OUT/scaling.md, its numbers scaling.json, the figure scaling.svg.
    """
    from vtp_core.plugins import load_plugins
    from vtp_plugins.scale.config import read_grid
    from vtp_plugins.scale.report import report
    from vtp_plugins.scale.runner import Bench, make_chains
    from vtp_plugins.scale.runs import expand

    _require_scipy()
    plugins = load_plugins(plugin_files)
    grid, tree = read_grid(grid_file, plugins)
    chains = expand(grid, tree, plugins, overrides)
    out = Path(grid.out.replace("<name>", grid.name))
    check_folder("out", out)
    check_file("--plot", plot)

    bench = Bench(
        out=out, cost=_Lazy(plugins), threads=threads, jobs=jobs, plugin_files=plugin_files, quiet=as_json
    )
    if dry_run:
        _dry_run(chains, bench, as_json)
        return
    stopped = False
    if not no_run:
        stopped = make_chains(chains, bench, None if budget is None else budget * 60)
    report(grid, chains, bench, plot, as_json=as_json)
    if stopped:
        raise Preempted("stopped by a signal; run the same command to resume")
    _raise_failures([run for chain in chains for run in chain], bench)


def _require_scipy() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise UsageError("fits need scipy: pip install 'vtp-core[scale]'") from None


def _dry_run(chains: Sequence[Sequence[Run]], bench: Bench, as_json: bool) -> None:
    """Prints what would be trained."""
    from vtp_plugins.scale.runner import state_of
    from vtp_plugins.scale.text import costs_text

    runs = [run for chain in chains for run in chain]
    states = [state_of(run, bench.folder(run)) for run in runs]
    costs = [bench.cost(run) for run in runs]
    trained = sum(cost["flops"] * (1 - run.start / run.steps) for run, cost in zip(runs, costs, strict=True))
    if as_json:
        rows = [
            {"name": run.name, "state": state, "steps": run.steps, "parent": run.parent, "start": run.start}
            | dict(cost)
            for run, state, cost in zip(runs, states, costs, strict=True)
        ]
        click.echo(json.dumps({"runs": rows, "flops": trained}, indent=2))
        return
    named = [(run.name, state) for run, state in zip(runs, states, strict=True)]
    click.echo(costs_text(named, costs))
    branches = sum(run.parent is not None for run in runs)
    shared = f", {branches} of them branches of longer ones" if branches else ""
    click.echo(f"{len(runs)} runs{shared}; {trained:.3g} forward FLOPs in all, nothing was trained")


def _raise_failures(runs: Sequence[Run], bench: Bench) -> None:
    from vtp_plugins.scale.runner import read_record, state_of

    failed = [run for run in runs if state_of(run, bench.folder(run)) == "failed"]
    if failed:
        record = read_record(bench.folder(failed[0]))
        raise RunsFailed(
            f"{len(failed)} of {len(runs)} runs failed, the first is {failed[0].name}: {record['message']} "
            f"(log: {bench.out / failed[0].name}.log); run the same command to try them again",
            int(record["exit_code"]),
        )
