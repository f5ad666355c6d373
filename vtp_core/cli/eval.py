"""``vtp eval``: measures a tokenizer that a run left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtp_core.cli.options import fast_option, plugin_option
from vtp_core.cli.tables import read_table
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.evaluation.evaluator import Evaluator
    from vtp_core.plugins import Plugins
    from vtp_core.tokenizer import Tokenizer


HELD_OUT = "val"
"""Split that is measured where a source has splits and none is named."""


@click.command("eval")
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option("--source", metavar="TABLE", help="Held-out data; split: default val.")
@click.option("--train-source", metavar="TABLE", help="Data that probes learn from.")
@click.option("--evaluator", "names", multiple=True, metavar="TABLE", help="Default: all that can run.")
@click.option("--limit", type=click.IntRange(min=1), help="Use that many samples of each source; named so.")
@click.option("--rows", type=click.IntRange(min=1), default=64, show_default=True, help="Samples at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the results as JSON.")
@fast_option(default=False)
@plugin_option
def eval_(
    artefact: Path,
    source: str | None,
    train_source: str | None,
    names: tuple[str, ...],
    limit: int | None,
    rows: int,
    device: str,
    output: Path | None,
    fast: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Measure the tokenizer in the folder ARTEFACT, or in a checkpoint (RUN/checkpoints/best).

    TABLE is a component's name, or an inline table as in a recipe: '{ use = "NAME", split = "val" }'. Of a
    --source that has splits, the split "val" is measured unless the table names another.
    """
    from vtp_core.artefact.preparation import prepare
    from vtp_core.atomic import write_json
    from vtp_core.cli.results import results_table
    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.opening import open_set
    from vtp_core.evaluation.runner import evaluate, why_not
    from vtp_core.plugins import load_plugins
    from vtp_core.run.progress import show_pass

    plugins = load_plugins(plugin_files)
    sources = Sources(plugins)
    model = _model(artefact, plugins)
    held_out = train = None
    if source is not None:
        held_out = open_set(read_held_out(source, plugins), sources, limit)
    if train_source is not None:
        train = open_set(read_table(train_source, "source", plugins), sources, limit)
    model.to(_device(device))
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    chosen = names or tuple(component.name for component in plugins.components("evaluator"))
    evaluators: dict[str, Evaluator] = {}
    for name in chosen:
        config = read_table(name, "evaluator", plugins)
        try:
            evaluator: Evaluator = plugins.find("evaluator", config.use).load_target()(config)
            reason = why_not(evaluator, model, held_out, train)
        except UsageError as error:  # such as weights that are not installed
            if names:
                raise
            reason = str(error)
        if reason and not names:
            click.echo(f"left out: {config.use}: {reason}", err=True)
            continue
        key = config.use if config.use not in evaluators else f"{config.use}_{len(evaluators) + 1}"
        evaluators[key] = evaluator
    if not evaluators:
        raise UsageError("no evaluator can run on this tokenizer and these sources; the lines above say why")
    results = evaluate(model, evaluators, held_out, train, rows=rows, show=show_pass)
    click.echo(results_table(results))
    for protocol in dict.fromkeys(str(entry["protocol"]) for entry in results.values()):
        click.echo(f"protocol: {protocol}")
    if output is not None:
        write_json(output, results)


def _model(path: Path, plugins: Plugins) -> Tokenizer:
    from vtp_core.artefact.from_recipe import newest_tokenizer
    from vtp_core.artefact.loading import load
    from vtp_core.recipe import load_recipe
    from vtp_core.run.records import RunFolder

    run = RunFolder.holding(path)
    if run.path == path or not run.exists():
        return load(path, plugins=plugins)
    return newest_tokenizer(path, load_recipe(run.recipe, plugins=plugins), plugins)[0]


def read_held_out(text: str, plugins: Plugins) -> ComponentConfig:
    """The config of a source to measure on: its split `val`, if it has splits and the text names none.

    Raises:
        UsageError: No split is named and it has no `val`.
    """
    from typing import get_args

    config = read_table(text, "source", plugins)
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


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name}: {str(error).splitlines()[0]}; see `vtp doctor`") from error
    return device
