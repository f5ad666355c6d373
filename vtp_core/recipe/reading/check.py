"""Checks across the tables of a recipe. Opens nothing and imports no torch.

A check is skipped where a value that it depends on is wrong itself, so that one mistake gives one error.
"""

from __future__ import annotations

from pathlib import Path as FilePath

from vtp_core.config import ComponentConfig, EvaluatorConfig, ObjectiveConfig, OptimizerConfig, SourceConfig
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.problems import did_you_mean
from vtp_core.recipe.reading.files import Tree
from vtp_core.recipe.reading.parts import Parts
from vtp_core.recipe.tables.data import DataConfig
from vtp_core.recipe.tables.optimizer import EmaConfig
from vtp_core.recipe.tables.run import EvaluateConfig, ParallelConfig
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import ViewNeed, sides

TOKENIZER = ("encoder", "bottleneck", "decoder")
"""Owners of every recipe."""

# Keys of an objective that `views` is likely to read.
_ABOUT_VIEWS = ("use", "view", "rows", "crop", "mask", "layer", "text", "label", "latent")


def check(tree: Tree, parts: Parts, world_size: int | None) -> None:
    """Runs all checks; problems go to ``tree.problems``.

    Args:
        tree: The places of keys.
        parts: The tables that could be read.
        world_size: Ranks to check for; None: the recipe's ``parallel.world_size``, or 1.
    """
    parallel = parts.get(ParallelConfig, "parallel") or ParallelConfig()
    ranks = world_size or parallel.world_size or 1
    if world_size is not None or parts.sure("parallel", "world_size"):
        _check_ranks(tree, parts, ranks, parallel)
    _check_sizes(tree, parts)
    _check_sources(tree, parts)
    _check_objectives(tree, parts, ranks)
    for name, table in parts.all(EvaluatorConfig, "evaluators").items():
        _check_conflicts(tree, parts, ("evaluators", name), table)
    _check_names(tree, parts)
    _check_best(tree, parts)


def _check_ranks(tree: Tree, parts: Parts, ranks: int, parallel: ParallelConfig) -> None:
    for name, view in parts.all(ViewConfig, "views").items():
        if view.rows % ranks and parts.sure("views", name, "rows"):
            message = f"{view.rows} is not divisible by world size {ranks}{_nearest(view.rows, ranks)}"
            tree.report(("views", name, "rows"), message)
    if not parts.sure("parallel", "shard"):
        return
    if ranks % parallel.shard:
        tree.report(("parallel", "shard"), f"{parallel.shard} does not divide world size {ranks}")
    optimizer = parts.get(OptimizerConfig, "optimizer")
    if parallel.shard > 1 and optimizer is not None and not optimizer.moves_shards:
        message = f"optimizer {optimizer.use} needs whole parameters on each rank; set parallel.shard = 1"
        tree.report(("parallel", "shard"), message)


def _nearest(rows: int, ranks: int) -> str:
    below, above = rows - rows % ranks, rows + -rows % ranks
    return f"; the nearest are {below} and {above}" if below else f"; the least is {above}"


def _check_sizes(tree: Tree, parts: Parts) -> None:
    patch = getattr(parts.get(ComponentConfig, "encoder"), "patch", None)
    if not isinstance(patch, int) or patch < 1 or not parts.sure("encoder", "patch"):
        return
    for name, view in parts.all(ViewConfig, "views").items():
        for crop_name, crop in view.crops.items():
            own = crop.size is not None
            path = ("views", name, "crops", crop_name, "size") if own else ("views", name, "size")
            bad = [side for side in sides(view.crop_size(crop_name)) if side % patch]
            # The view's own size is checked once, with its global crops.
            if bad and parts.sure(*path) and (own or crop_name == "global"):
                tree.report(path, f"{bad[0]} is not a multiple of the encoder's patch {patch}")


def _check_sources(tree: Tree, parts: Parts) -> None:
    data = parts.get(DataConfig, "data")
    if data is None or not parts.sure("data", "sources"):
        return
    views = parts.all(ViewConfig, "views")
    for name, view in views.items():
        if (
            view.source != "default"
            and view.source not in data.sources
            and parts.sure("views", name, "source")
        ):
            advice = did_you_mean(view.source, ["default", *data.sources])
            tree.report(("views", name, "source"), f"there is no [data.sources.{view.source}]; {advice}")
    if parts.complete("views") and all(parts.sure("views", name, "source") for name in views):
        for name in data.sources.keys() - {view.source for view in views.values()}:
            tree.report(("data", "sources", name), "no view uses this source; remove it")


def _check_objectives(tree: Tree, parts: Parts, ranks: int) -> None:
    views = parts.names.get("views", [])
    used: set[str] = set()
    all_known = parts.complete("objectives")
    if all_known and not parts.names.get("objectives"):
        tree.report(("objectives",), "there is nothing to train; add a table [objectives.NAME]")
        return
    for name in parts.names.get("objectives", []):
        objective = parts.get(ObjectiveConfig, "objectives", name)
        if objective is None or not _views_are_sure(parts, name):
            all_known = False
            continue
        if objective.stop is not None and objective.stop <= objective.start:
            tree.report(("objectives", name, "stop"), f"must come after start = {objective.start}")
        _check_partners(tree, parts, name, objective)
        _check_conflicts(tree, parts, ("objectives", name), objective)
        _check_frozen(tree, parts, name, objective)
        for view_name, need in objective.views().items():
            used.add(view_name)
            view = parts.get(ViewConfig, "views", view_name)
            if view is not None:
                _check_need(tree, parts, name, view_name, view, need, ranks)
            elif view_name not in views and parts.complete("views"):
                advice = did_you_mean(view_name, views)
                place = _place(tree, name, view_name)
                tree.report(place, f"there is no [views.{view_name}]; {advice}")
    # An unused view may be the one that a wrong name meant.
    if all_known and used <= set(views):
        for view_name in views:
            if view_name not in used:
                tree.report(("views", view_name), "no objective uses this view; remove it")


def _check_partners(tree: Tree, parts: Parts, name: str, objective: ObjectiveConfig) -> None:
    others = [other for other in parts.names.get("objectives", []) if other != name]
    for key, partner in objective.partners().items():
        if partner not in others and parts.complete("objectives"):
            advice = "it names itself" if partner == name else did_you_mean(partner, others)
            tree.report(("objectives", name, key), f"there is no other [objectives.{partner}]; {advice}")


def _check_conflicts(
    tree: Tree, parts: Parts, place: tuple[str, str], table: ObjectiveConfig | EvaluatorConfig
) -> None:
    if not parts.sure(*place):
        return
    for key, message in table.conflicts().items():
        path = (*place, *key.split("."))
        if FilePath(tree.origin(path).file).name != RESOLVED:
            tree.report(path, message)


def _views_are_sure(parts: Parts, name: str) -> bool:
    """Whether no key that an objective's `views` is likely to read is wrong."""
    return not any(
        path[:2] == ("objectives", name)
        and (len(path) < 3 or any(word in str(path[2]) for word in _ABOUT_VIEWS))
        for path in parts.doubtful
    )


def _check_need(
    tree: Tree, parts: Parts, name: str, view_name: str, view: ViewConfig, need: ViewNeed, ranks: int
) -> None:
    """Checks one objective's need against its view."""
    place = _place(tree, name, view_name)
    at_view = f"[views.{view_name}]"

    def sure(*keys: str) -> bool:
        return parts.sure("views", view_name, *keys)

    if need.rows is not None:
        rows_place = _key(tree, name, "rows") or place
        if need.rows > view.rows and sure("rows"):
            tree.report(rows_place, f"needs {need.rows} rows of {at_view}, which has {view.rows}")
        elif need.rows % ranks and parts.sure("parallel"):
            message = f"{need.rows} is not divisible by world size {ranks}{_nearest(need.rows, ranks)}"
            tree.report(rows_place, message)
    for crop in need.crops:
        if crop not in view.crops and sure("crops"):
            advice = did_you_mean(crop, view.crops)
            tree.report(place, f'needs crops "{crop}" of {at_view}; {advice}')
    if need.masked and view.masks is None and sure("masks"):
        tree.report(place, f"needs masks, but {at_view} has none; add masks = {{}} to it")
    depth = getattr(parts.get(ComponentConfig, "encoder"), "depth", None)
    if isinstance(depth, int) and parts.sure("encoder", "depth"):
        for layer in need.layers:
            if not 0 <= layer < depth:
                tree.report(place, f"taps block {layer}, but the encoder's blocks are 0 to {depth - 1}")
    _check_fields(tree, parts, place, view, need)


def _check_fields(tree: Tree, parts: Parts, place: tuple[str, ...], view: ViewConfig, need: ViewNeed) -> None:
    """Checks text and labels, if the source's table says which fields its samples have."""
    data = parts.get(DataConfig, "data")
    if data is None or not parts.sure("data"):
        return
    source = data.source if view.source == "default" else data.sources.get(view.source)
    offered = source.offers() if isinstance(source, SourceConfig) else None
    if source is None or offered is None:
        return
    table = "[data.source]" if view.source == "default" else f"[data.sources.{view.source}]"
    for wanted, what in ((need.text, "text"), (need.label, "label")):
        if wanted and what not in offered:
            tree.report(place, f"needs a {what} with each sample, but {table} ({source.use}) has none")


def _place(tree: Tree, name: str, view_name: str) -> tuple[str, ...]:
    """Path of the key of an objective that holds a view's name, or of its table."""
    table = tree.values["objectives"][name]
    for key, value in table.items():
        if value == view_name and key != "use":
            return ("objectives", name, key)
    return _key(tree, name, "view") or ("objectives", name)


def _key(tree: Tree, name: str, key: str) -> tuple[str, ...] | None:
    return ("objectives", name, key) if key in tree.values["objectives"][name] else None


def _check_frozen(tree: Tree, parts: Parts, name: str, objective: ObjectiveConfig) -> None:
    """Reports an objective on the latents of a tokenizer that is still trained."""
    freeze = parts.values.get(("freeze",), ())
    trained = [part for part in ("encoder", "bottleneck") if part not in freeze]
    written = FilePath(tree.origin(("objectives", name, "use")).file).name != RESOLVED
    if objective.needs_frozen_tokenizer and trained and written:
        tree.report(
            ("objectives", name),
            f"learns the latents of a frozen tokenizer, but {' and '.join(trained)} would be trained and "
            'leave it behind; set freeze = ["encoder", "bottleneck", "decoder"]',
        )


def _check_names(tree: Tree, parts: Parts) -> None:
    """Checks names of owners and of averaged networks."""
    objectives = parts.names.get("objectives", [])
    owners = [*TOKENIZER, *objectives]
    freeze = parts.values.get(("freeze",), ())
    for index, owner in enumerate(freeze):
        if owner not in owners:
            path = ("freeze", index)
            tree.report(path, f'there is no "{owner}" to freeze; {did_you_mean(owner, owners)}')
    if not set(owners) - set(freeze):
        tree.report(("freeze",), "everything is frozen, so there is nothing to train")
    for objective in set(objectives) & set(TOKENIZER):
        tree.report(("objectives", objective), "is the name of a part of the tokenizer; choose another")
    if optimizer := parts.get(OptimizerConfig, "optimizer"):
        for owner in optimizer.owners.keys() - set(TOKENIZER):
            advice = did_you_mean(owner, TOKENIZER)
            if owner in objectives:
                advice = f"set [objectives.{owner}.optimizer] instead"
            tree.report(("optimizer", "owners", owner), f"is not a part of the tokenizer; {advice}")
    if ema := parts.get(EmaConfig, "ema"):
        for index, name in enumerate(ema.networks):
            _check_network(tree, ("ema", "networks", index), name, objectives)
        for name in ema.momenta:
            _check_network(tree, ("ema", "momenta", name), name, objectives)


def _check_best(tree: Tree, parts: Parts) -> None:
    """Checks that ``evaluate.best`` names an evaluator that runs during training."""
    table = parts.get(EvaluateConfig, "evaluate")
    if table is None or table.best is None:
        return
    evaluator, known = table.best.partition(".")[0], parts.names.get("evaluators", [])
    if evaluator not in known and parts.complete("evaluators"):
        advice = did_you_mean(evaluator, known)
        tree.report(("evaluate", "best"), f"there is no [evaluators.{evaluator}]; {advice}")
    if not table.every and parts.sure("evaluate", "every"):
        tree.report(("evaluate", "best"), "nothing is measured before the end; set evaluate.every")


def _check_network(tree: Tree, path: tuple[str | int, ...], name: str, objectives: list[str]) -> None:
    networks = [f"tokenizer.{part}" for part in TOKENIZER]
    head, _, rest = name.partition(".")
    owner, _, module = rest.partition(".")
    if name in networks or (head == "objectives" and owner in objectives and module):
        return
    known = [*networks, *(f"objectives.{objective}.MODULE" for objective in objectives)]
    tree.report(path, f'there is no network "{name}"; {did_you_mean(name, known)}')
