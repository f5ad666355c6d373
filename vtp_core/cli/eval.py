"""``vtp eval``: measures a tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.generator import require_sampled, sampled_with
from vtp_core.cli.arguments.options import (
    changes_option,
    device_option,
    fast_option,
    json_option,
    plugin_option,
    read_changes,
)
from vtp_core.cli.arguments.protocols import chosen_evaluators
from vtp_core.cli.leaderboard import compare, opened, prepared
from vtp_core.cli.measuring import ROWS, Measured, Measuring, Plan, first_failure, make_plan, recipe_of
from vtp_core.cli.output import check_file
from vtp_core.errors import UsageError


@click.command("eval")
@click.argument(
    "tokenizers", nargs=-1, required=True, metavar="TOKENIZER...", shell_complete=completion.tokenizers
)
@click.option(
    "-r",
    "--recipe",
    metavar="RECIPE",
    shell_complete=completion.recipes,
    help="Take sources and evaluators from this recipe or run; default: those of TOKENIZER's own run.",
)
@click.option("--source", metavar="TABLE", help="Held-out data; split: default val.")
@click.option("--train-source", metavar="TABLE", help="Data that probes learn from.")
@click.option(
    "--evaluator",
    "names",
    multiple=True,
    metavar="TABLE",
    help="Default: all that can run; some only if named.",
)
@click.option(
    "--protocol",
    "protocols",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.protocols,
    help="Measure by this named protocol, with every evaluator that has it or those of --evaluator.",
)
@changes_option(
    "Setting of the generator whose samples are measured, such as guidance=2; the protocol says so."
)
@click.option("--limit", type=click.IntRange(min=1), help="Use that many samples of each source; named so.")
@click.option(
    "--allow-incomplete", is_flag=True, help="Measure what is left where parts of a source can't be read."
)
@click.option(
    "--rows", type=click.IntRange(min=1), help=f"Samples at a time; default: the recipe's, or {ROWS}."
)
@device_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the results as JSON.")
@click.option("--leaderboard", is_flag=True, help="One table of all TOKENIZERs, with their sizes and speeds.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write that table as a page that needs no network."
)
@fast_option
@json_option
@plugin_option
def eval_(
    tokenizers: tuple[str, ...],
    recipe: str | None,
    source: str | None,
    train_source: str | None,
    names: tuple[str, ...],
    protocols: tuple[str, ...],
    changes: tuple[str, ...],
    limit: int | None,
    allow_incomplete: bool,
    rows: int | None,
    device: str,
    output: Path | None,
    leaderboard: bool,
    html: Path | None,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Measure TOKENIZER, or compare several.

    TOKENIZER is the folder of a run, one of its checkpoints (RUN/checkpoints/best), the folder of a
    tokenizer, or the name of one that ships.

    TABLE is a component's name, or an inline table as in a recipe: '{ use = "NAME", split = "val" }'; of a
    source also a path that it recognises. Of a --source that has splits, the split "val" is measured unless
    the table names another. Of a run, sources and evaluators are those of its recipe unless they are given;
    with --recipe those of that one, each unless it is given. With --leaderboard those of the first TOKENIZER
    are used for all.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    check_file("--output", output)
    check_file("--html", html)
    if not (leaderboard or html) and len(tokenizers) > 1:
        raise UsageError("several tokenizers are measured with --leaderboard")
    plugins = load_plugins(plugin_files)
    folders = {name: find_tokenizer(name, plugins) for name in dict.fromkeys(tokenizers)}
    given = recipe_of(recipe, next(iter(folders.values())), source, plugins)
    chosen = chosen_evaluators(names, protocols, given.evaluators if given is not None else {}, plugins)
    plan = make_plan(given, source, train_source, chosen, plugins, named=bool(names))
    settings = read_changes(changes)
    require_sampled(plan.evaluators, settings)
    plan = replace(
        plan,
        settings=settings,
        rows=rows or plan.rows,
        limit=limit or plan.limit,
        allow_incomplete=allow_incomplete or plan.allow_incomplete,
    )
    measuring = Measuring(plan, plugins)
    if leaderboard or html:
        compare(
            folders, measuring, plugins, device=device, fast=fast, as_json=as_json, output=output, html=html
        )
    else:
        (folder,) = folders.values()
        model = opened(folder, plugins, device)
        for table in plan.evaluators.values():
            sampled_with(table, settings, model)  # refuses wrong ones before anything is measured
        prepared(model, plugins, fast, _say)
        _print(measuring.measure(model, _say), plan, as_json, output)


def _print(found: Measured, plan: Plan, as_json: bool, output: Path | None) -> None:
    from vtp_core.atomic import write_json
    from vtp_core.cli.results import results_text

    if not found.results:
        raise next(iter(found.failures.values()))
    click.echo(json.dumps(found.written, indent=2) if as_json else results_text(found.results))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, found.written)
    for name, why in found.left_out.items():
        _say(f"left out: {name}: {why}")
    if failure := first_failure([found], plan.named):
        raise failure


def _say(line: str) -> None:
    click.echo(line, err=True)
