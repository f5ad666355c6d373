"""What makes a module a plugin: its API version, its hooks, the form of names. Imports no torch."""

from __future__ import annotations

import difflib
import re
from functools import reduce
from typing import Any

import pluggy

from vtp_core.errors import UsageError
from vtp_core.plugins import hookspecs
from vtp_core.plugins.hookspecs import API_VERSION, KINDS, hook_name

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HOOKS = tuple(hook_name(kind) for kind in KINDS)


class InvalidPlugin(UsageError):
    """A module that breaks the rules of a plugin."""


def check_name(name: str, what: str) -> None:
    """Raises `InvalidPlugin` unless `name` is a plain lower-case name."""
    if not _NAME.fullmatch(name):
        raise InvalidPlugin(f'{what} name "{name}" must be lower-case letters, digits, "_" and "-"')


def check_import(target: object, what: str) -> None:
    """Raises `InvalidPlugin` if `target` is a string but not an import string."""
    if isinstance(target, str) and not _IMPORT.fullmatch(target):
        raise InvalidPlugin(f'{what} is "{target}", expected "package.module:Class" or the object itself')


def own_object(module: object, alias: str, target: Any, what: str) -> Any:
    """The object that an import string means if it names the plugin's own module by `alias`; else `target`.

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
        InvalidPlugin: It states another API version or none, has a hook of an unknown name or with unknown
            arguments, has a hook without `hookimpl`, or has no hook.
    """
    _check_version(module)
    manager = pluggy.PluginManager("vtp")
    manager.add_hookspecs(hookspecs)
    for hook in _HOOKS:
        if hasattr(module, hook) and manager.parse_hookimpl_opts(module, hook) is None:
            raise InvalidPlugin(f"{hook} is not marked; put @hookimpl above it (from vtp_core.plugins)")
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


def _check_version(module: object) -> None:
    stated = getattr(module, "vtp_api", None)
    if stated is None:
        raise InvalidPlugin(f"it does not state its API version; add the line vtp_api = {API_VERSION}")
    if type(stated) is not int or stated != API_VERSION:
        older = type(stated) is int and stated < API_VERSION
        change = "a newer version of it" if older else "a newer vtp-core or an older version of it"
        raise InvalidPlugin(f"it is written for vtp_api {stated!r}, this is {API_VERSION}; install {change}")
