"""Needs: what an objective asks of a view of the recipe. Imports no torch.

A *view* is what the loader makes of a sample; a table ``[views.NAME]`` of the recipe describes it
(`vtp_core.recipe.tables.views.ViewConfig`). A `ViewNeed` is what one objective uses of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Size = int | tuple[int, int]
"""Side of a square in pixels, or height and width."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """A size in protocols and messages: `64`, or `64 x 96` (height, width)."""
    height, width = sides(size)
    return str(height) if height == width else f"{height} x {width}"


@dataclass(frozen=True, kw_only=True)
class ViewNeed:
    """What one objective uses of one view.

    Attributes:
        crops: Names of the crop sets it reads.
        masked: Whether it reads a forward in which masked patches are replaced by the mask token.
        text: Whether it reads captions.
        label: Whether it reads class labels.
        classes: Number of classes that it is built for, labels 0 .. classes - 1; None: any.
        latent: Whether cached latents serve as well as images.
        layers: Encoder blocks (0-based) whose output it taps.
        rows: Global rows per step that it uses, the first ones of the view; None means all of them.
    """

    crops: tuple[str, ...] = ("global",)
    masked: bool = False
    text: bool = False
    label: bool = False
    classes: int | None = None
    latent: bool = False
    layers: tuple[int, ...] = ()
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class ViewSize:
    """Sizes of a view on which the loss of an untrained objective depends.

    Attributes:
        rows: Samples per step over all ranks.
        masked: Fraction of the global crops that are masked; 0 without masks.
    """

    rows: int
    masked: float = 0.0


def union(needs: Iterable[ViewNeed]) -> ViewNeed:
    """One need that serves all of `needs`: what a group's shared forward has to produce."""
    needs = tuple(needs)
    rows = [need.rows for need in needs]
    return ViewNeed(
        crops=tuple(dict.fromkeys(name for need in needs for name in need.crops)),
        masked=any(need.masked for need in needs),
        text=any(need.text for need in needs),
        label=any(need.label for need in needs),
        latent=bool(needs) and all(need.latent for need in needs),
        layers=tuple(sorted({layer for need in needs for layer in need.layers})),
        rows=None if None in rows else max((row for row in rows if row is not None), default=None),
    )
