"""Groups of objectives that share views, and so their forwards. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vtp_core.view import ViewNeed, union


@dataclass(frozen=True, kw_only=True)
class Group:
    """Objectives connected by common views.

    Attributes:
        objectives: Names in the order they are called: recipe order, adversarial ones last.
        views: Names of their views.
    """

    objectives: tuple[str, ...]
    views: tuple[str, ...]


def build_groups(needs: Mapping[str, Mapping[str, ViewNeed]], last: Collection[str] = ()) -> list[Group]:
    """Connected components of objectives over the views they declare.

    Args:
        needs: Objective -> view -> what it asks, in recipe order.
        last: Adversarial objectives, which are weighed against the others of their group.

    Returns:
        Groups in the order of their first objective.
    """
    components: list[tuple[set[str], set[str]]] = []
    for name, views in needs.items():
        members, seen = {name}, set(views)
        for component in [component for component in components if component[1] & seen]:
            components.remove(component)
            members |= component[0]
            seen |= component[1]
        components.append((members, seen))
    order = [name for name in needs if name not in last] + [name for name in needs if name in last]
    groups = [
        Group(
            objectives=tuple(name for name in order if name in members),
            views=tuple(dict.fromkeys(view for name in order if name in members for view in needs[name])),
        )
        for members, _ in components
    ]
    first = list(needs)
    return sorted(groups, key=lambda group: min(first.index(name) for name in group.objectives))


def group_needs(
    needs: Mapping[str, Mapping[str, ViewNeed]], objectives: Iterable[str]
) -> dict[str, ViewNeed]:
    """View -> union of what the given objectives ask of it."""
    asked: dict[str, list[ViewNeed]] = {}
    for name in objectives:
        for view, need in needs[name].items():
            asked.setdefault(view, []).append(need)
    return {view: union(each) for view, each in asked.items()}
