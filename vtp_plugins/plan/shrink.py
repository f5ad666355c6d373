"""Recipes as a plan runs them: no weights, all objectives active, and shallow. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from vtp_core.config import ComponentConfig
from vtp_core.recipe.tables.recipe import Recipe

TableT = TypeVar("TableT", bound=BaseModel)

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
    """Component -> its number of blocks: tables with an integer key `depth`, of objectives inner ones too.

    Names are ``encoder``, ``bottleneck``, ``decoder``, ``objectives.<name>``, such as
    ``objectives.<name>.transformer``, and ``frozen.<name>``.
    """
    tables: dict[str, BaseModel] = dict(_tables(recipe))
    for name, table in _tables(recipe).items():
        if name.startswith("objectives."):
            tables |= _nested(name, table)
    found = {name: getattr(table, "depth", None) for name, table in tables.items()}
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
    tables = {name: _with_depths(name, table, new) for name, table in _tables(recipe).items()}
    parts = {name: tables[name] for name in ("encoder", "bottleneck", "decoder")}
    objectives = {name: tables[f"objectives.{name}"] for name in recipe.objectives}
    frozen = {
        name: table.model_copy(update={"encoder": tables[f"frozen.{name}"]})
        for name, table in recipe.frozen.items()
    }
    return recipe.model_copy(update={**parts, "objectives": objectives, "frozen": frozen})


def _nested(name: str, table: BaseModel) -> dict[str, BaseModel]:
    """Dotted name -> table, of all tables inside of one."""
    found: dict[str, BaseModel] = {}
    for key in type(table).model_fields:
        if isinstance(inner := getattr(table, key), BaseModel):
            found |= {f"{name}.{key}": inner} | _nested(f"{name}.{key}", inner)
    return found


def _with_depths(name: str, table: TableT, new: Mapping[str, int]) -> TableT:
    """The table with new depths, its own and those of tables inside."""
    update: dict[str, object] = {"depth": new[name]} if name in new else {}
    for key in type(table).model_fields:
        inner = getattr(table, key)
        if isinstance(inner, BaseModel) and any(each.startswith(f"{name}.{key}") for each in new):
            update[key] = _with_depths(f"{name}.{key}", inner, new)
    return table.model_copy(update=update) if update else table


def _tables(recipe: Recipe) -> Mapping[str, ComponentConfig]:
    return {
        "encoder": recipe.encoder,
        "bottleneck": recipe.bottleneck,
        "decoder": recipe.decoder,
        **{f"objectives.{name}": table for name, table in recipe.objectives.items()},
        **{f"frozen.{name}": table.encoder for name, table in recipe.frozen.items()},
    }
