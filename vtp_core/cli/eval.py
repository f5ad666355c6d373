"""``vtp eval``: measures a tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.options import (
    device_option,
    fast_option,
    json_option,
    plugin_option,
    tokenizer_argument,
    torch_device,
)
from vtp_core.cli.arguments.protocols import chosen_evaluators
from vtp_core.cli.arguments.tables import is_table, read_table
from vtp_core.cli.output import check_file
from vtp_core.errors import DataError, UsageError, VtpError
from vtp_core.recipe import load_recipe
from vtp_core.recipe.history import RESOLVED

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.evaluation.evaluator import Evaluator
    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe
    from vtp_core.recipe.tables.data import DecodeLimits


HELD_OUT = "val"
"""Split that is measured where a source has splits and none is named."""
ROWS = 64
"""Samples at a time where no recipe tells."""


@click.command("eval")
@tokenizer_argument
@click.option(
    "-r",
    "--recipe",
    metavar="RECIPE",
    shell_complete=completion.recipes,
    help="Take sources and evaluators from this recipe or run; default: those of TOKENIZER's own run.",
)
@click.option("--source", metavar="TABLE", help="Held-out data; split: default val.")
@click.option("--train-source", metavar="TABLE", help="Data that probes learn from.")
@click.option("--evaluator", "names", multiple=True, metavar="TABLE", help="Default: all that can run.")
@click.option(
    "--protocol",
    "protocols",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.protocols,
    help="Measure by this named protocol, with every evaluator that has it or those of --evaluator.",
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
@fast_option(default=False)
@json_option
@plugin_option
def eval_(
    tokenizer: str,
    recipe: str | None,
    source: str | None,
    train_source: str | None,
    names: tuple[str, ...],
    protocols: tuple[str, ...],
    limit: int | None,
    allow_incomplete: bool,
    rows: int | None,
    device: str,
    output: Path | None,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Measure TOKENIZER.

    TOKENIZER is the folder of a run, one of its checkpoints (RUN/checkpoints/best), the folder of a
    tokenizer, or the name of one that ships.

    TABLE is a component's name, or an inline table as in a recipe: '{ use = "NAME", split = "val" }'; of a
    source also a path that it recognises. Of a --source that has splits, the split "val" is measured unless
    the table names another. Of a run, sources and evaluators are those of its recipe unless they are given;
    with --recipe those of that one, each unless it is given.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.data.opening import Sources
    from vtp_core.plugins import load_plugins

    check_file("--output", output)
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    given = _recipe(recipe, folder, source, plugins)
    chosen = chosen_evaluators(names, protocols, given.evaluators if given is not None else {}, plugins)
    plan = _plan(given, source, train_source, chosen, plugins)
    sources = Sources(plugins, plan.limits)
    for table in (plan.held_out, plan.train):
        if table is not None:
            sources.open(table)

    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.atomic import write_json
    from vtp_core.cli.results import results_text
    from vtp_core.evaluation.failures import reason
    from vtp_core.evaluation.opening import open_set
    from vtp_core.evaluation.runner import evaluate, why_not
    from vtp_core.run.progress import show_pass
    from vtp_core.run.records import LEFT_OUT

    limit, allowed = limit or plan.limit, allow_incomplete or plan.allow_incomplete
    held_out = train = None
    if plan.held_out is not None:
        held_out = open_set(plan.held_out, sources, limit, allow_incomplete=allowed)
    if plan.train is not None:
        train = open_set(plan.train, sources, limit, skip_bad=plan.of_run, allow_incomplete=allowed)
    model = load(folder, plugins=plugins)
    model.to(torch_device(device))
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    evaluators: dict[str, Evaluator] = {}
    for name, config in plan.evaluators.items():
        try:
            kind: type[Evaluator] = plugins.find("evaluator", config.use).load_target()
            if not plan.asked and (why := kind.must_download(config)):
                raise UsageError(f"{why}; or name it to download them: --evaluator {config.use}")
            evaluator = kind(config)
            problem = why_not(evaluator, model, held_out, train)
        except UsageError as error:  # such as weights that are not installed
            if names:
                raise
            problem = str(error)
        if problem and names:
            raise UsageError(f"evaluator {name}: {problem}; leave it out or change the data")
        if problem:
            click.echo(f"left out: {name}: {problem}", err=True)
            continue
        evaluators[name] = evaluator
    if not evaluators:
        advice = "" if plan.held_out else ": give held-out data with --source"
        raise UsageError(
            f"no evaluator can run on this tokenizer and these sources{advice}; the lines above say why"
        )
    failures: dict[str, VtpError] = {}
    results = evaluate(
        model, evaluators, held_out, train, rows=rows or plan.rows, show=show_pass, failures=failures
    )
    left_out = {name: reason(name, error) for name, error in failures.items()}
    if not results:
        raise next(iter(failures.values()))
    written = {**results, LEFT_OUT: left_out} if left_out else results
    click.echo(json.dumps(written, indent=2) if as_json else results_text(results))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, written)
    for name, why in left_out.items():
        click.echo(f"left out: {name}: {why}", err=True)
    for failure in failures.values():
        # Data that an evaluator can't use is an error only if someone named the evaluator.
        if names or not isinstance(failure, DataError | UsageError):
            raise failure


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is measured on which data, before anything is loaded."""

    held_out: ComponentConfig | None
    train: ComponentConfig | None
    evaluators: Mapping[str, ComponentConfig]
    asked: bool
    """Whether the command line or a recipe names the evaluators."""
    of_run: bool = False
    """Whether the training set is that of a run, which leaves bad samples out."""
    rows: int = ROWS
    limit: int | None = None
    limits: DecodeLimits | None = None
    allow_incomplete: bool = False


def _recipe(given: str | None, tokenizer: Path, source: str | None, plugins: Plugins) -> Recipe | None:
    """The recipe that says what is measured: a given one, else that of the tokenizer's run, else None.

    Raises:
        UsageError: It can't be read.
    """
    from vtp_core.artefact.finding import run_of_checkpoint

    if given is not None:
        return load_recipe(given, plugins=plugins)
    run = run_of_checkpoint(tokenizer) or tokenizer.parent
    return load_recipe(run, plugins=plugins) if source is None and (run / RESOLVED).is_file() else None


def _plan(
    recipe: Recipe | None,
    source: str | None,
    train_source: str | None,
    chosen: Mapping[str, ComponentConfig],
    plugins: Plugins,
) -> _Plan:
    """The tables of the command line; what it doesn't name is the recipe's.

    Raises:
        UsageError: A table is wrong.
    """
    held_out = None if source is None else read_held_out(source, plugins)
    train = None if train_source is None else read_source(train_source, plugins)
    if recipe is None:
        return _Plan(held_out=held_out, train=train, evaluators=chosen or _all(plugins), asked=bool(chosen))
    given = recipe.evaluate
    held_out = held_out or given.source
    return _Plan(
        held_out=held_out,
        train=train or (held_out and (given.train_source or recipe.data.source)),
        evaluators=chosen or recipe.evaluators or _all(plugins),
        asked=bool(chosen or recipe.evaluators),
        of_run=train is None,
        rows=given.rows,
        limit=given.limit,
        limits=recipe.data.decode,
        allow_incomplete=given.allow_incomplete,
    )


def _all(plugins: Plugins) -> dict[str, ComponentConfig]:
    known = plugins.components("evaluator")
    return {component.name: read_table(component.name, "evaluator", plugins) for component in known}


def read_source(text: str, plugins: Plugins) -> ComponentConfig:
    """A source's table: as it is given, or of the source that recognises a path."""
    from vtp_core.data.recognition import recognise

    if is_table(text) or not os.path.exists(os.path.expanduser(text)):
        return read_table(text, "source", plugins)
    return recognise(text, plugins)


def read_held_out(text: str, plugins: Plugins) -> ComponentConfig:
    """The config of a source to measure on: its split `val`, if it has splits and the text names none.

    Raises:
        UsageError: No split is named and it has no `val`.
    """
    from typing import get_args

    config = read_source(text, plugins)
    field = type(config).model_fields.get("split")
    if field is None or "split" in config.model_fields_set:
        return config
    splits = get_args(field.annotation)
    if HELD_OUT not in splits:
        known = " or ".join(f'"{split}"' for split in splits if isinstance(split, str))
        known = f" ({known})" if known else ""
        example = f'{{ use = "{config.use}", split = "..." }}'
        raise UsageError(
            f"source {config.use}: \"{HELD_OUT}\" is none of its splits; name one{known}, as in '{example}'"
        )
    return config.model_copy(update={"split": HELD_OUT})
