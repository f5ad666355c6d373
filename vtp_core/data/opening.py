"""Opens the sources of a recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from vtp_core.config import ComponentConfig
from vtp_core.data.source import Source
from vtp_core.recipe.tables.data import DataConfig, DecodeLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from vtp_core.plugins import Plugins


def open_source(config: ComponentConfig, limits: DecodeLimits, plugins: Plugins) -> Source:
    """Opens one source.

    Args:
        config: Its table, such as ``[data.source]``.
        limits: Bounds on its samples.
        plugins: Where ``use`` is looked up.

    Raises:
        DataError: There is nothing to read.
        UsageError: No plugin offers it.
    """
    target = plugins.find("source", config.use).load_target()
    return cast("Callable[[ComponentConfig, DecodeLimits], Source]", target)(config, limits)


def open_sources(data: DataConfig, plugins: Plugins) -> Mapping[str, Source]:
    """Opens ``[data.source]`` as "default" and ``[data.sources.NAME]`` by name.

    Raises:
        DataError: One of them has nothing to read.
        UsageError: No plugin offers it.
    """
    tables = {"default": data.source, **data.sources}
    return {name: open_source(config, data.decode, plugins) for name, config in tables.items()}
