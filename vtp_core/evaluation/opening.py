"""The evaluation sets of a recipe."""

from __future__ import annotations

from vtp_core.config import ComponentConfig
from vtp_core.data.opening import open_source
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe
from vtp_core.recipe.tables.data import DecodeLimits


def open_set(
    table: ComponentConfig,
    plugins: Plugins,
    limits: DecodeLimits | None = None,
    limit: int | None = None,
    *,
    skip_bad: bool = False,
) -> EvaluationSet:
    """Opens a source for evaluation.

    Args:
        table: The source's table.
        plugins: Where ``use`` is looked up.
        limits: Bounds on its samples.
        limit: Samples to use; None: all.
        skip_bad: Whether bad samples are left out, as training leaves them out.
    """
    source = open_source(table, limits if limits is not None else DecodeLimits(), plugins)
    return EvaluationSet(name=set_name(table), source=source, limit=limit, skip_bad=skip_bad)


def open_recipe_sets(recipe: Recipe, plugins: Plugins) -> tuple[EvaluationSet, EvaluationSet] | None:
    """The held-out and the training set of ``[evaluate]``; None if the recipe evaluates nothing."""
    table = recipe.evaluate
    if table.source is None:
        return None
    train = table.train_source if table.train_source is not None else recipe.data.source
    held_out = open_set(table.source, plugins, recipe.data.decode, table.limit)
    return held_out, open_set(train, plugins, recipe.data.decode, table.limit, skip_bad=True)


def set_name(table: ComponentConfig) -> str:
    """What a protocol calls a source: its name, its split, and other settings that aren't the defaults.

    Of paths only the last part is kept: where data lies on a machine is no part of a protocol.
    """
    settings = table.model_dump(mode="json", exclude_defaults=True)
    shown = ", ".join(
        f"{key}={_brief(value)}" for key, value in settings.items() if key not in ("use", "split")
    )
    split = getattr(table, "split", None)
    return f"{table.use}{f'/{split}' if split else ''}{f' ({shown})' if shown else ''}"


def _brief(value: object) -> str:
    if isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2] or value
    if isinstance(value, list | tuple):
        return "+".join(_brief(item) for item in value)
    return str(value)
