"""``vtp report``: the HTML page of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import json_option, plugin_option
from vtp_core.cli.output import check_file
from vtp_core.recipe.history import RESOLVED

COMPARISON = "comparison.html"
"""The page of several runs, in the present folder."""


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=f"File; default: RUN/report.html, of a comparison {COMPARISON}.",
)
@click.option(
    "--reference", is_flag=True, help="Compare with the curves that ship with the recipe of the first RUN."
)
@json_option
@plugin_option
def report(
    runs: tuple[Path, ...],
    output: Path | None,
    reference: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Write the report of RUN, the folder of a run or its tokenizer: one HTML file that needs no network.

    Makes the reconstructions first, if the artefact is newer than them. Of several runs, up to eight, one
    page compares numbers, curves and recipes.
    """
    check_file("--output", output)
    folders = list(dict.fromkeys(_run_of(run) for run in runs))
    if len(folders) > 1 or reference:
        path = _comparison(folders, output, reference)
    else:
        path = _single(folders[0], output, plugin_files)
    click.echo(json.dumps({"report": str(path)}, indent=2) if as_json else f"report: {path}")


def _run_of(path: Path) -> Path:
    return path.parent if path.name == "tokenizer" and (path.parent / RESOLVED).is_file() else path


def _single(run: Path, output: Path | None, plugin_files: tuple[Path, ...]) -> Path:
    from vtp_core.plugins import load_plugins
    from vtp_core.run.progress import show_pass
    from vtp_core.run.report import build_report

    return build_report(run, output, plugins=load_plugins(plugin_files), show=show_pass)


def _comparison(folders: list[Path], output: Path | None, reference: bool) -> Path:
    from vtp_core.atomic import write_text
    from vtp_core.leaderboard.page import render_runs
    from vtp_core.leaderboard.reference import shipped_reference
    from vtp_core.leaderboard.runs import compare_runs
    from vtp_core.run.records import RunFolder

    path = output if output is not None else Path(COMPARISON)
    check_file("--output", path)
    read = {str(folder): RunFolder(folder).read() for folder in folders}
    if reference:
        title, run = shipped_reference(next(iter(read.values())).name)
        read[title] = run
    page = render_runs(compare_runs(read))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
