"""Warnings of `vtp plan`: recipes that are valid but probably a mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vtp_core.schedule import value_at
from vtp_core.training.networks import PARTS

if TYPE_CHECKING:
    from vtp_core.recipe.tables.recipe import Recipe
    from vtp_plugins.plan.sizes import Sizes


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
        *_constant_teachers(sizes),
        *_teachers_that_stop_beside_text(recipe, sizes),
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


def _teachers_that_stop_beside_text(recipe: Recipe, sizes: Sizes) -> list[str]:
    """Source: SILC (Naeem et al., arXiv 2310.13355): at momentum 1 the teacher stops learning from text."""
    steps = recipe.run.steps
    momenta = {
        teacher.name: recipe.ema.momenta.get(teacher.name, recipe.ema.momentum) for teacher in sizes.teachers
    }
    with_text = [
        name for name, table in recipe.objectives.items() if any(need.text for need in table.views().values())
    ]
    return [
        f"ema: the momentum of {name} ends at 1, so the teacher stops learning from {', '.join(with_text)}; "
        "SILC keeps it fixed beside image-text contrast: try ema.momentum = 0.996"
        for name, momentum in momenta.items()
        if with_text and value_at(momentum, 0, steps) < value_at(momentum, steps, steps) == 1.0
    ]


def _constant_teachers(sizes: Sizes) -> list[str]:
    return [
        f"ema: {teacher.name} has momentum 1 at the first step and the last; the teacher never changes"
        for teacher in sizes.teachers
        if teacher.first == teacher.last == 1.0
    ]
