"""What is loaded for a recipe: views of each source, rows and fields. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtp_core.data.augmentation import Augmentation
from vtp_core.data.loading.order import Order
from vtp_core.data.opening import open_augmentation
from vtp_core.data.source import Source
from vtp_core.errors import DataError, UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import ViewNeed


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """One view as this rank loads it.

    Attributes:
        name: Name in the recipe.
        view: Its table.
        augmentation: What makes its crops.
        need: The union of what objectives ask of it.
        rows: Global rows that are loaded, at most the view's; a multiple of the world size.
        fields: Fields of a sample that it takes.
        grid: Patch rows and columns of a global crop.
    """

    name: str
    view: ViewConfig
    augmentation: Augmentation
    need: ViewNeed
    rows: int
    fields: frozenset[str]
    grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """One source and the views that read it.

    Attributes:
        name: Name in the recipe, "default" for ``[data.source]``.
        source: Where its samples come from.
        order: Its shuffled stream.
        advance: Samples of the stream a step takes: the rows of its largest view.
        views: Views that read it.
    """

    name: str
    source: Source
    order: Order
    advance: int
    views: Sequence[ViewPlan]


def plan_views(
    views: Mapping[str, ViewConfig],
    needs: Mapping[str, ViewNeed],
    sources: Mapping[str, Source],
    plugins: Plugins,
    *,
    seed: int,
    world_size: int,
    patch: int,
) -> list[SourcePlan]:
    """What to load, from the recipe's views and what objectives ask of them.

    Args:
        views: The recipe's views.
        needs: View -> union of what is asked; views that nobody asks of are not loaded.
        sources: Source name -> source.
        plugins: Where augmentations are looked up.
        seed: The run's seed.
        world_size: Number of ranks.
        patch: Pixels a patch side, for masks.

    Raises:
        DataError: A source is empty or lacks a field that is asked for.
        UsageError: Rows can't be dealt to the ranks, or an augmentation can't be built.
    """
    plans = []
    for name in dict.fromkeys(view.source for view in views.values()):
        source = sources[name]
        mine = {key: view for key, view in views.items() if view.source == name}
        if len(source) == 0:
            raise DataError(f"source {name} has no samples")
        items = [
            _plan_view(key, view, needs[key], name, source, plugins, world_size, patch)
            for key, view in mine.items()
            if key in needs
        ]
        if items:
            plans.append(
                SourcePlan(
                    name=name,
                    source=source,
                    order=Order(len(source), seed, name),
                    advance=max(view.rows for view in mine.values()),
                    views=items,
                )
            )
    return plans


def _plan_view(
    name: str,
    view: ViewConfig,
    need: ViewNeed,
    source_name: str,
    source: Source,
    plugins: Plugins,
    world_size: int,
    patch: int,
) -> ViewPlan:
    rows = view.rows if need.rows is None else min(need.rows, view.rows)
    if rows % world_size:
        raise UsageError(f"views.{name}: {rows} rows can't be dealt to {world_size} ranks; take a multiple")
    pixels = "latent" if need.latent and "latent" in source.fields else "image"
    wanted = {"text": need.text, "label": need.label, pixels: True}
    fields = frozenset(field for field, asked in wanted.items() if asked)
    if missing := sorted(fields - source.fields):
        raise DataError(
            f"views.{name} needs {' and '.join(missing)}, but source {source_name} has only "
            f"{', '.join(sorted(source.fields))}"
        )
    side = view.crop_size("global") // patch
    return ViewPlan(
        name=name,
        view=view,
        augmentation=open_augmentation(view.augment, plugins),
        need=need,
        rows=rows,
        fields=fields,
        grid=(side, side),
    )
