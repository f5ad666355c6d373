"""The plugin system: hooks, loading in isolation, names, versions. Imports no torch.

A plugin's module uses `vtp_core.hookimpl`; commands call `load_plugins` and pass the `Plugins` on.
"""

from vtp_core.plugins.component import BrokenComponent, Component
from vtp_core.plugins.diagnosis import Diagnosis, diagnose
from vtp_core.plugins.hookspecs import KINDS, Kind, Register, hookimpl
from vtp_core.plugins.loading import load_plugins
from vtp_core.plugins.manager import Plugin, PluginFailure, Plugins, UnknownComponent
from vtp_core.plugins.version import API_VERSION, InvalidPlugin

__all__ = [
    "API_VERSION",
    "KINDS",
    "BrokenComponent",
    "Component",
    "Diagnosis",
    "InvalidPlugin",
    "Kind",
    "Plugin",
    "PluginFailure",
    "Plugins",
    "Register",
    "UnknownComponent",
    "diagnose",
    "hookimpl",
    "load_plugins",
]
