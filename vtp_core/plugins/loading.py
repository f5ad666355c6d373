"""Finds plugins: the entry points of installed packages, and loose files. Imports no torch.

An installed plugin that fails is recorded with its reason; only a recipe that uses it fails. A failing file
that the user named is an error.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Literal

from vtp_core.errors import UsageError
from vtp_core.plugins.component import FIRST_PARTY, one_line
from vtp_core.plugins.isolation import isolated
from vtp_core.plugins.manager import PluginFailure, Plugins
from vtp_core.plugins.version import InvalidPlugin, check_version, module_file, stated_version

GROUP = "vtp"
"""Entry-point group of plugins."""

SELECTION = "VTP_PLUGINS"
"""Environment variable with the names of the installed plugins to load, separated by commas; unset: all."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    source: Callable[[], Path | None]
    alias: str = ""


def load_plugins(
    files: Iterable[str | Path] = (),
    only: Iterable[str] | None = None,
    *,
    record_broken_files: bool = False,
    try_first: Literal["loading", "diagnostics"] | None = None,
) -> Plugins:
    """Loads installed plugins and loose files, each on its own.

    Args:
        files: Python files that are plugins (``--plugin ./file.py``); the stem is the plugin's name.
        only: Names of the installed plugins to load; None: those that the environment variable VTP_PLUGINS
            names, all if it is not set.
        record_broken_files: Whether a file that fails to load is recorded, as an installed plugin is,
            instead of being an error.
        try_first: Loads plugins that are not the core's in processes of their own first, and calls their
            diagnostics there; one that ends or hangs its process is recorded as broken. None: no trial.

    Returns:
        The plugins; broken installed ones are in `Plugins.failures`.

    Raises:
        UsageError: One of `files` is not a file, or fails to load.
    """
    paths = [_checked_file(path) for path in files]
    if only is None and (selection := os.environ.get(SELECTION)) is not None:
        only = filter(None, (name.strip() for name in selection.split(",")))
    chosen = None if only is None else set(only)
    plugins = Plugins()
    installed = _installed()
    found: list[_Found] = []
    for name, rivals in installed.items():
        if chosen is not None and name not in chosen:
            plugins.left_out.append(name)
            continue
        # Of two packages that claim a name neither is loaded, unless one is the core itself.
        accepted = [item for item in rivals if item.distribution == FIRST_PARTY]
        if not accepted and len(rivals) == 1:
            accepted = rivals
        found += accepted
        for item in rivals:
            if item not in accepted:
                owners = " and ".join(" ".join((rival.distribution, rival.version)) for rival in rivals)
                _fail(plugins, item, f'the plugin name "{name}" is claimed by {owners}; uninstall one')
    for name in sorted((chosen or set()) - installed.keys()):
        reason = f'chosen by name, but no installed package has an entry point "{name}" in group {GROUP}'
        plugins.failures.append(PluginFailure(plugin=name, reason=reason))
    found += [
        _Found(
            name=path.stem,
            distribution=str(path),
            version="",
            load=partial(_run, path),
            source=partial(Path, path),
            alias=path.stem,
        )
        for path in paths
    ]
    deaths = {} if try_first is None else _deaths(found, diagnose=try_first == "diagnostics")
    for item in found:
        error = _load(plugins, item, deaths.get((item.name, item.alias)))
        if error is not None and item.alias and not record_broken_files:
            reason = f"--plugin {item.distribution}: failed to load: {one_line(error)}"
            hint = "" if isinstance(error, UsageError) else "; fix the file (vtp --debug shows the traceback)"
            raise UsageError(reason + hint) from error
    return plugins


@contextmanager
def selected(plugins: Plugins) -> Iterator[None]:
    """Restricts what any code loads in the block to the installed plugins that work."""
    before = os.environ.get(SELECTION)
    os.environ[SELECTION] = ",".join(plugin.name for plugin in plugins if not plugin.loose)
    try:
        yield
    finally:
        if before is None:
            del os.environ[SELECTION]
        else:
            os.environ[SELECTION] = before


def _deaths(found: Sequence[_Found], *, diagnose: bool) -> dict[tuple[str, str], str]:
    """Name and alias of the plugins that end or hang their process -> what happened."""
    from vtp_core.plugins.trial import Candidate, try_plugins

    strange = [item for item in found if item.distribution != FIRST_PARTY]
    candidates = [Candidate(item.name, item.distribution if item.alias else None) for item in strange]
    reasons = try_plugins(candidates, diagnose=diagnose)
    return {
        (item.name, item.alias): reason
        for item, reason in zip(strange, reasons, strict=True)
        if reason is not None
    }


def _installed() -> dict[str, list[_Found]]:
    """Entry points by name: the core's own first, the rest in alphabetical order."""
    found: dict[str, list[_Found]] = defaultdict(list)
    for point in metadata.entry_points(group=GROUP):
        distribution = re.sub(r"[-_.]+", "-", point.dist.name).lower() if point.dist else ""
        version = point.dist.version if point.dist else ""
        found[point.name].append(
            _Found(
                name=point.name,
                distribution=distribution,
                version=version,
                load=point.load,
                source=partial(module_file, point.value),
            )
        )
    for rivals in found.values():
        rivals.sort(key=lambda item: item.distribution)
    return dict(sorted(found.items(), key=lambda item: (item[1][0].distribution != FIRST_PARTY, item[0])))


def _load(plugins: Plugins, found: _Found, death: str | None = None) -> BaseException | None:
    """Imports and registers one plugin; records and returns the error if that fails, or it failed a trial."""
    package = " ".join(filter(None, (found.distribution, found.version)))
    who = "" if found.distribution == FIRST_PARTY else f"plugin {found.name} ({package})"
    try:
        _check_source(found)
        if death is not None:
            raise InvalidPlugin(death)
        with isolated(who) as notices:
            module = found.load()
            plugins.add(
                module,
                found.name,
                distribution=found.distribution,
                version=found.version,
                alias=found.alias,
            )
    except KeyboardInterrupt:  # the user's
        raise
    except BaseException as error:
        _fail(plugins, found, one_line(error), "".join(traceback.format_exception(error)))
        return error
    plugins.note(found.name, notices)
    return None


def _check_source(found: _Found) -> None:
    """Refuses a plugin of another version before it runs: its imports may be gone, which hides the reason."""
    source = None if found.distribution == FIRST_PARTY else found.source()
    stated = None if source is None else stated_version(source)
    if stated is not None:
        check_version(stated)


def _fail(plugins: Plugins, found: _Found, reason: str, trace: str = "") -> None:
    plugins.failures.append(
        PluginFailure(
            plugin=found.name,
            distribution=found.distribution,
            version=found.version,
            reason=reason,
            traceback=trace,
        )
    )


def _checked_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file; give a Python file with hooks (see vtp new-plugin)")
    return path


def _run(path: Path) -> ModuleType:
    """Imports a file under a module name of its own."""
    name = "vtp_loose_" + re.sub(r"\W", "_", path.stem)
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
