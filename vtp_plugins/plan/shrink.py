"""Recipes as a plan runs them: no weights, all objectives active, and shallow. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from vtp_core.config import ComponentConfig
from vtp_core.recipe.tables.recipe import Recipe

TORCH_ATTENTION = ("auto", "sdpa", "matmul", "reference")
"""Attention of the core; what plugins add may want another device and hides its products from a count."""


def plannable(recipe: Recipe, attention: str) -> Recipe:
    """The recipe without pretrained weights, with every objective active at every step.

    Args:
        recipe: As loaded.
        attention: Implementation to measure; one of `TORCH_ATTENTION`.
    """
    objectives = {
        name: table.untrained().model_copy(update={"start": 0, "stop": None})
        for name, table in recipe.objectives.items()
    }
    frozen = {
        name: table.model_copy(update={"encoder": table.encoder.untrained(), "weights": "random"})
        for name, table in recipe.frozen.items()
    }
    parts: dict[str, ComponentConfig] = {
        "encoder": recipe.encoder.untrained(),
        "bottleneck": recipe.bottleneck.untrained(),
        "decoder": recipe.decoder.untrained(),
    }
    kernels = recipe.kernels.model_copy(update={"attention": attention})
    update = {"init_from": None, "objectives": objectives, "frozen": frozen, "kernels": kernels, **parts}
    return recipe.model_copy(update=update)


def depths(recipe: Recipe) -> dict[str, int]:
    """Component -> its number of blocks: every table with an integer key `depth`.

    Names are ``encoder``, ``bottleneck``, ``decoder``, ``objectives.<name>`` and ``frozen.<name>``.
    """
    found = {name: getattr(table, "depth", None) for name, table in _tables(recipe).items()}
    return {
        name: depth for name, depth in found.items() if isinstance(depth, int) and not isinstance(depth, bool)
    }


def shallow(recipe: Recipe, deeper: str | None = None) -> Recipe:
    """The recipe with components of depth 1.

    Args:
        recipe: The recipe.
        deeper: A component of `depths` that gets depth 2, if the recipe's is as deep.
    """
    new = {name: min(depth, 2 if name == deeper else 1) for name, depth in depths(recipe).items()}
    tables = {
        name: table.model_copy(update={"depth": new[name]}) if name in new else table
        for name, table in _tables(recipe).items()
    }
    parts = {name: tables[name] for name in ("encoder", "bottleneck", "decoder")}
    objectives = {name: tables[f"objectives.{name}"] for name in recipe.objectives}
    frozen = {
        name: table.model_copy(update={"encoder": tables[f"frozen.{name}"]})
        for name, table in recipe.frozen.items()
    }
    return recipe.model_copy(update={**parts, "objectives": objectives, "frozen": frozen})


def _tables(recipe: Recipe) -> Mapping[str, ComponentConfig]:
    return {
        "encoder": recipe.encoder,
        "bottleneck": recipe.bottleneck,
        "decoder": recipe.decoder,
        **{f"objectives.{name}": table for name, table in recipe.objectives.items()},
        **{f"frozen.{name}": table.encoder for name, table in recipe.frozen.items()},
    }
