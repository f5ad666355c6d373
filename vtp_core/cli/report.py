"""``vtp report``: the HTML page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from vtp_core.cli.options import plugin_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; default: RUN/report.html."
)
@plugin_option
def report(run: Path, output: Path | None, plugin_files: tuple[Path, ...]) -> None:
    """Write the report of the run folder RUN: one HTML file that needs no network.

    Makes the reconstructions first, if the artefact is newer than them.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.run.progress import show_pass
    from vtp_core.run.report import build_report

    path = build_report(run, output, plugins=load_plugins(plugin_files), show=show_pass)
    click.echo(f"report: {path}")
