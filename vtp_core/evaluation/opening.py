"""Opens the sources of an evaluation and builds the evaluators of a recipe."""

from __future__ import annotations

from hashlib import blake2b

from vtp_core.config import ComponentConfig
from vtp_core.data.completeness import require_whole
from vtp_core.data.opening import Sources
from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe

_LISTED = 32  # a longer list of settings, such as excluded samples, is named by its hash


def open_set(
    table: ComponentConfig,
    sources: Sources,
    limit: int | None = None,
    *,
    skip_bad: bool = False,
    allow_incomplete: bool = False,
) -> EvaluationSet:
    """Opens a source for evaluation.

    Args:
        table: The source's table.
        sources: The opened sources of the process.
        limit: Number of samples to use; None: all.
        skip_bad: Whether bad samples are left out, and parts that can't be read; the protocol counts both.
        allow_incomplete: Whether only such parts are left out.

    Raises:
        DataError: There is nothing to read, or parts can't be read.
    """
    source = sources.open(table)
    if not (skip_bad or allow_incomplete):
        require_whole(set_name(table), source)
    return EvaluationSet(name=set_name(table), source=source, limit=limit, skip_bad=skip_bad)


def open_recipe_sets(
    recipe: Recipe, sources: Sources
) -> tuple[EvaluationSet, EvaluationSet] | tuple[None, None]:
    """The held-out and the training set of ``[evaluate]``; (None, None) if it names no source."""
    table = recipe.evaluate
    if table.source is None:
        return None, None
    train = table.train_source if table.train_source is not None else recipe.data.source
    held_out = open_set(table.source, sources, table.limit, allow_incomplete=table.allow_incomplete)
    return held_out, open_set(train, sources, table.limit, skip_bad=True)


def build_evaluators(recipe: Recipe, plugins: Plugins) -> dict[str, Evaluator]:
    """The evaluators of a recipe; without a held-out source only those that read no data."""
    evaluators: dict[str, Evaluator] = {
        name: plugins.find("evaluator", table.use).load_target()(table)
        for name, table in recipe.evaluators.items()
    }
    if recipe.evaluate.source is not None:
        return evaluators
    return {
        name: evaluator
        for name, evaluator in evaluators.items()
        if not (evaluator.uses_held_out or evaluator.uses_train)
    }


def set_name(table: ComponentConfig) -> str:
    """Name of a source in protocols: component, split, and settings that differ from their defaults.

    Only the last part of a path is kept: the location of data is not part of a protocol. Excluded samples
    keep their whole names.
    """
    settings = table.model_dump(mode="json", exclude_defaults=True)
    shown = ", ".join(
        f"{key}={_brief(value, whole=key == 'exclude')}"
        for key, value in settings.items()
        if key not in ("use", "split")
    )
    split = getattr(table, "split", None)
    return f"{table.use}{f'/{split}' if split else ''}{f' ({shown})' if shown else ''}"


def _brief(value: object, *, whole: bool) -> str:
    if isinstance(value, str) and not whole:
        return value.rstrip("/").rpartition("/")[2] or value
    if isinstance(value, list | tuple) and len(value) > _LISTED:
        return f"{len(value)} of hash {blake2b(repr(value).encode(), digest_size=4).hexdigest()}"
    if isinstance(value, list | tuple):
        return "+".join(_brief(item, whole=whole) for item in value)
    return str(value)
