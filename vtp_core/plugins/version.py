"""The version of the plugin interface: read from a plugin's source, and checked. Imports no torch."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import PathFinder
from pathlib import Path

from vtp_core.errors import UsageError

API_VERSION = 2
"""Version of the hooks and interfaces; a plugin states the one it was written for as ``vtp_api``."""

CHANGES = {2: 'modules moved; "import vtp_core as vtp" has every interface (docs/decisions/008)'}
"""Version -> what a plugin of the version before has to change."""


class InvalidPlugin(UsageError):
    """A module that breaks the rules of a plugin."""


def check_version(stated: object) -> None:
    """Raises `InvalidPlugin` unless `stated`, the value of ``vtp_api``, is the version of this core."""
    if stated is None:
        raise InvalidPlugin(f"it does not state its API version; add the line vtp_api = {API_VERSION}")
    if type(stated) is int and stated == API_VERSION:
        return
    advice = "upgrade vtp-core, or install an older version of the plugin"
    if type(stated) is int and stated < API_VERSION:
        changes = "; ".join(text for version, text in CHANGES.items() if version > stated)
        advice = f"upgrade the plugin, or change it and that line: since then {changes}"
    raise InvalidPlugin(f"it is written for vtp_api {stated!r}, this vtp-core has {API_VERSION}; {advice}")


def stated_version(path: Path) -> object:
    """The value of ``vtp_api`` in a Python file that is not run; None if no plain assignment states it."""
    stated: object = None
    try:
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == "vtp_api" for target in targets):
                    stated = ast.literal_eval(node.value)
    except (OSError, SyntaxError, ValueError):
        return None  # running the file reports what is wrong with it
    return stated


def module_file(name: str) -> Path | None:
    """The source file of a module, found without running its packages; None if there is none."""
    parts = name.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
        for end in range(2, len(parts) + 1):
            if spec is None or spec.submodule_search_locations is None:
                return None
            spec = PathFinder.find_spec(".".join(parts[:end]), spec.submodule_search_locations)
    except (ImportError, ValueError):
        return None
    source = None if spec is None else spec.origin
    return Path(source) if source is not None and source.endswith(".py") else None
