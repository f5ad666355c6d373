"""The sample streams of a run: each source with its order and the views that read it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtp_core.data.augmentation import Augmentation
from vtp_core.data.draw import integer
from vtp_core.data.loading.order import Order
from vtp_core.data.opening import open_augmentation
from vtp_core.data.source import Sample, Source, VersionedSource
from vtp_core.errors import DataError, UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import ViewNeed


@dataclass(frozen=True, kw_only=True)
class StreamView:
    """A view that reads a stream.

    Attributes:
        name: Name in the recipe.
        config: Its table.
        augmentation: What makes its crops.
        need: The union of what objectives ask of it.
        rows: Global rows per step that are loaded, at most the view's; a multiple of the world size.
        fields: Fields of a sample that it reads.
        grid: Patch rows and columns of a global crop.
    """

    name: str
    config: ViewConfig
    augmentation: Augmentation
    need: ViewNeed
    rows: int
    fields: frozenset[str]
    grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The shuffled samples of one source, epoch after epoch.

    Attributes:
        name: Name of the source in the recipe, "default" for ``[data.source]``.
        source: Its samples.
        order: Position in the stream -> index in the source.
        advance: Samples per step: the rows of the largest view.
        views: Views that read it.
    """

    name: str
    source: Source
    order: Order
    advance: int
    views: Sequence[StreamView]

    def read(self, index: int, position: int, fields: frozenset[str]) -> Sample:
        """The sample of that index; of its versions one by (seed, position), which tells epoch and sample."""
        source = self.source
        if not isinstance(source, VersionedSource) or source.versions == 1:
            return source.read(index, fields)
        version = integer("version", self.order.seed, self.order.name, position) % source.versions
        return source.read_version(index, version, fields)


def build_streams(
    views: Mapping[str, ViewConfig],
    needs: Mapping[str, ViewNeed],
    sources: Mapping[str, Source],
    plugins: Plugins,
    *,
    seed: int,
    world_size: int,
    patch: int,
) -> list[Stream]:
    """The streams that the views of a recipe read.

    Args:
        views: The recipe's views.
        needs: View -> union of what objectives ask of it; other views are not loaded.
        sources: Source name -> source.
        plugins: Where augmentations are looked up.
        seed: The run's seed.
        world_size: Number of ranks.
        patch: Side of a patch in pixels, for masks.

    Raises:
        DataError: A source is empty or lacks a field that is needed.
        UsageError: Rows are not divisible by the number of ranks, or an augmentation can't be built.
    """
    streams = []
    for name in dict.fromkeys(view.source for view in views.values()):
        source = sources[name]
        readers = {key: view for key, view in views.items() if view.source == name}
        if len(source) == 0:
            raise DataError(f"source {name} has no samples")
        loaded = [
            StreamView(
                name=key,
                config=view,
                augmentation=open_augmentation(view.augment, plugins),
                need=needs[key],
                rows=_rows(key, view, needs[key], world_size),
                fields=_fields(key, needs[key], name, source),
                grid=view.grid(patch),
            )
            for key, view in readers.items()
            if key in needs
        ]
        if loaded:
            streams.append(
                Stream(
                    name=name,
                    source=source,
                    order=Order(len(source), seed, name),
                    advance=max(view.rows for view in readers.values()),
                    views=loaded,
                )
            )
    return streams


def _rows(name: str, view: ViewConfig, need: ViewNeed, world_size: int) -> int:
    rows = view.rows if need.rows is None else min(need.rows, view.rows)
    if rows % world_size:
        raise UsageError(f"views.{name}: {rows} rows are not divisible by {world_size} ranks; use a multiple")
    return rows


def _fields(name: str, need: ViewNeed, source_name: str, source: Source) -> frozenset[str]:
    pixels = "latent" if need.latent and "latent" in source.fields else "image"
    needed = {"text": need.text, "label": need.label, pixels: True}
    fields = frozenset(field for field, is_needed in needed.items() if is_needed)
    if missing := sorted(fields - source.fields):
        raise DataError(
            f"views.{name} needs {' and '.join(missing)}, but source {source_name} has only "
            f"{', '.join(sorted(source.fields))}"
        )
    return fields
