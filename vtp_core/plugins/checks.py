"""Checks of a plugin's module: version, hooks, names. Imports no torch."""

from __future__ import annotations

import difflib
import re
from functools import reduce
from typing import Any

import pluggy

from vtp_core.plugins import hookspecs
from vtp_core.plugins.hookspecs import KINDS, hook_name
from vtp_core.plugins.version import InvalidPlugin, check_version

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HOOKS = tuple(hook_name(kind) for kind in KINDS)


def check_name(name: str, what: str) -> None:
    """Raises `InvalidPlugin` unless `name` is a plain lower-case name."""
    if not _NAME.fullmatch(name):
        raise InvalidPlugin(f'{what} name "{name}" must be lower-case letters, digits, "_" and "-"')


def check_import(target: object, what: str) -> None:
    """Raises `InvalidPlugin` if `target` is a string but not an import string."""
    if isinstance(target, str) and not _IMPORT.fullmatch(target):
        raise InvalidPlugin(f'{what} is "{target}", expected "package.module:Class" or the object itself')


def own_object(module: object, alias: str, target: Any, what: str) -> Any:
    """The object of an import string that names the plugin's own module by `alias`; else `target` itself.

    Raises:
        InvalidPlugin: The module has no such object.
    """
    if not alias or not isinstance(target, str):
        return target
    name, _, attribute = target.partition(":")
    if name != alias:
        return target
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise InvalidPlugin(f'{what} is "{target}", but the file has no {attribute}') from None


def checked_hooks(module: object, name: str) -> pluggy.HookRelay:
    """The hooks of one plugin, in a pluggy manager of its own.

    Args:
        module: The plugin: a module or another object with the attributes of one.
        name: Its name.

    Raises:
        InvalidPlugin: It states another version or none, has no hook, an unknown one, one with other
            arguments or one that is not marked by `hookimpl`.
    """
    check_version(getattr(module, "vtp_api", None))
    manager = pluggy.PluginManager("vtp")
    manager.add_hookspecs(hookspecs)
    for hook in _HOOKS:
        if hasattr(module, hook) and manager.parse_hookimpl_opts(module, hook) is None:
            raise InvalidPlugin(f"{hook} is not marked; put @vtp.hookimpl above it (import vtp_core as vtp)")
    try:
        manager.register(module, name)
    except pluggy.PluginValidationError as error:
        raise InvalidPlugin(" ".join(str(error).split())) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = next(hook for hook in vars(manager.hook) if hook not in _HOOKS and hook in str(error))
        close = difflib.get_close_matches(unknown, _HOOKS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_HOOKS)}"
        raise InvalidPlugin(f"unknown hook {unknown}; {hint}") from error
    if not manager.get_hookcallers(module):
        raise InvalidPlugin("it has no hook; write one, such as register_objectives, marked @hookimpl")
    return manager.hook
