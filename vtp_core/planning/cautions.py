"""What a plan warns of: things that run, but hardly as meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vtp_core.training.networks import PARTS

if TYPE_CHECKING:
    from vtp_core.planning.sizes import Sizes
    from vtp_core.recipe.model import Recipe


def find_cautions(
    recipe: Recipe, sizes: Sizes, idle: Mapping[str, Sequence[str]], unused: Collection[str]
) -> list[str]:
    """All warnings about a recipe, one line each.

    Args:
        recipe: The recipe in full.
        sizes: Its parameters.
        idle: Owner -> trainable parameters that no loss reaches.
        unused: Owners of which no loss reaches any parameter.
    """
    return [
        *_idle_owners(recipe, idle, unused),
        *_resting_teachers(sizes),
    ]


def _idle_owners(recipe: Recipe, idle: Mapping[str, Sequence[str]], unused: Collection[str]) -> list[str]:
    lines = []
    for owner, names in idle.items():
        if owner in PARTS and owner in unused:
            lines.append(f"{owner}: no objective trains it, so it stays as it was initialised or loaded")
            continue
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        then = "the run will stop there" if recipe.run.audit_gradients else "they stay as they are"
        lines.append(f"{owner}: no gradient reaches {', '.join(names[:3])}{more}; {then}")
    return lines


def _resting_teachers(sizes: Sizes) -> list[str]:
    return [
        f"ema: the twin of {twin.name} has momentum 1 at the first step and the last; is it meant to rest?"
        for twin in sizes.twins
        if twin.first == twin.last == 1.0
    ]
