"""Finds the source that can read a path by asking every installed one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vtp_core.config import ComponentConfig, SourceConfig
from vtp_core.errors import DataError
from vtp_core.plugins.component import Component, one_line
from vtp_core.plugins.isolation import isolated
from vtp_core.recipe.reading.component import read_component
from vtp_core.recipe.writing.dump import literal

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins


def recognise(path: str, plugins: Plugins) -> ComponentConfig:
    """The table of the one source that reads `path`.

    Args:
        path: A file, a folder or a pattern of paths.
        plugins: Whose sources are asked.

    Raises:
        DataError: No source recognises it, or several do; one line with the next step.
        UsageError: The keys that the source gives don't make a table.
    """
    tables: dict[str, Mapping[str, object]] = {}
    reasons = []
    for component in plugins.components("source"):
        try:
            keys = _keys(component, path)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:  # a plugin's own code may fail in any way
            said = str(error) if type(error) is ValueError else one_line(error)
            reasons.append(f"{component.name}: {said}")
        else:
            if keys is not None:
                tables[component.name] = {"use": component.name, **keys}
    if len(tables) > 1:
        names, (first, *_) = " and ".join(tables), tables.values()
        raise DataError(f"{path}: {names} read it; give the table of one, such as '{literal(first)}'")
    if not tables:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        advice = 'give a table, { use = "NAME", ... }, of one that vtp plugins list --kind source names'
        raise DataError(f"{path}: no installed source recognises it{why}; {advice}")
    (table,) = tables.values()
    return read_component("source", table, plugins)


def _keys(component: Component, path: str) -> Mapping[str, object] | None:
    config = component.load_config()
    if not issubclass(config, SourceConfig):
        return None
    with isolated(component.watched_as):
        return config.recognise(path)
