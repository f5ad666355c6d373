"""Builds the sources and augmentations that a recipe names. Imports no torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from vtp_core.config import AugmentationConfig, ComponentConfig, SourceConfig
from vtp_core.data.part import Part
from vtp_core.data.source import Source
from vtp_core.recipe.tables.data import DataConfig, DecodeLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from vtp_core.data.augmentation import Augmentation
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
    opener = getattr(target, "open_with", None)
    if opener is not None:
        source = cast("Callable[[ComponentConfig, DecodeLimits, Plugins], Source]", opener)(
            config, limits, plugins
        )
    else:
        source = cast("Callable[[ComponentConfig, DecodeLimits], Source]", target)(config, limits)
    if isinstance(config, SourceConfig) and (config.part or config.exclude):
        return Part(source, config)
    return source


class Sources:
    """The opened sources of a process: training, evaluation and statistics share one for each table.

    Args:
        plugins: Where ``use`` is looked up.
        limits: Bounds on samples; None: the defaults.
    """

    def __init__(self, plugins: Plugins, limits: DecodeLimits | None = None) -> None:
        self._plugins = plugins
        self._limits = limits if limits is not None else DecodeLimits()
        self._opened: list[tuple[ComponentConfig, Source]] = []

    def open(self, config: ComponentConfig) -> Source:
        """The source of a table; a table equal to an earlier one gives the same object.

        Raises:
            DataError: There is nothing to read.
            UsageError: No plugin offers it.
        """
        for known, source in self._opened:
            if known == config:
                return source
        source = open_source(config, self._limits, self._plugins)
        self._opened.append((config, source))
        return source

    def named(self, data: DataConfig) -> Mapping[str, Source]:
        """``[data.source]`` as "default" and ``[data.sources.NAME]`` by name."""
        return {name: self.open(config) for name, config in {"default": data.source, **data.sources}.items()}


def open_augmentation(config: AugmentationConfig, plugins: Plugins) -> Augmentation:
    """Builds the augmentation of a view.

    Args:
        config: The table ``augment`` of the view.
        plugins: Where ``use`` is looked up.

    Raises:
        UsageError: No plugin offers it.
    """
    target = plugins.find("augmentation", config.use).load_target()
    return cast("Callable[[AugmentationConfig], Augmentation]", target)(config)
