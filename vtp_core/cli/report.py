"""``vtp report``: the HTML page of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import json_option, plugin_option
from vtp_core.cli.output import check_file
from vtp_core.recipe.history import RESOLVED


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File; default: RUN/report.html.")
@json_option
@plugin_option
def report(run: Path, output: Path | None, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """Write the report of RUN, the folder of a run or its tokenizer: one HTML file that needs no network.

    Makes the reconstructions first, if the artefact is newer than them.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.run.progress import show_pass
    from vtp_core.run.report import build_report

    check_file("--output", output)
    if run.name == "tokenizer" and (run.parent / RESOLVED).is_file():
        run = run.parent
    path = build_report(run, output, plugins=load_plugins(plugin_files), show=show_pass)
    click.echo(json.dumps({"report": str(path)}, indent=2) if as_json else f"report: {path}")
