"""Evaluators and named protocols as a command line chooses them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vtp_core.cli.arguments.tables import read_table, read_values, table_values
from vtp_core.config import EvaluatorConfig
from vtp_core.errors import UsageError
from vtp_core.recipe.problems import did_you_mean

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Plugins


def known_protocols(plugins: Plugins) -> dict[str, dict[str, Mapping[str, str]]]:
    """Name of a protocol -> evaluator that has it -> keys of its table that choose it."""
    found: dict[str, dict[str, Mapping[str, str]]] = {}
    for component in plugins.components("evaluator"):
        config = component.load_config()
        if issubclass(config, EvaluatorConfig):
            for name, keys in config.protocols.items():
                found.setdefault(name, {})[component.name] = keys
    return found


def chosen_evaluators(
    tables: Sequence[str],
    protocols: Sequence[str],
    recipe: Mapping[str, ComponentConfig],
    plugins: Plugins,
) -> dict[str, ComponentConfig]:
    """The evaluators that a command line names; empty if it names none.

    Args:
        tables: Names or inline tables of evaluators.
        protocols: Named protocols: of those evaluators, or of all that have one if none is named.
        recipe: Evaluators of the recipe; one that follows a protocol is taken as it stands there, with its
            files and other keys.
        plugins: Installed plugins.

    Raises:
        UsageError: A table is wrong, or no evaluator has a protocol.
    """
    if not protocols:
        return _named([read_table(text, "evaluator", plugins) for text in tables])
    known = known_protocols(plugins)
    found: list[ComponentConfig] = []
    for protocol in protocols:
        if protocol not in known:
            raise UsageError(f"--protocol {protocol}: no evaluator has it; {did_you_mean(protocol, known)}")
        having = known[protocol]
        for text in tables:
            values = table_values(text, "evaluator")
            use = values.get("use")
            if use not in having:
                raise UsageError(f"--protocol {protocol} is of {', '.join(having)}, not of {use}")
            for key, value in having[use].items():
                if values.setdefault(key, value) != value:
                    raise UsageError(
                        f"--evaluator {use}: {key} = {values[key]!r} contradicts --protocol {protocol}"
                    )
            found.append(read_values("evaluator", values, plugins))
        for use, keys in () if tables else having.items():
            own = [each for each in recipe.values() if each.use == use and _follows(each, keys)]
            found += own or [read_values("evaluator", {"use": use, **keys}, plugins)]
    return _named(found)


def _follows(table: ComponentConfig, keys: Mapping[str, str]) -> bool:
    return all(getattr(table, key) == value for key, value in keys.items())


def _named(tables: Sequence[ComponentConfig]) -> dict[str, ComponentConfig]:
    found: dict[str, ComponentConfig] = {}
    for table in tables:
        found[table.use if table.use not in found else f"{table.use}_{len(found) + 1}"] = table
    return found
