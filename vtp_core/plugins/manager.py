"""The loaded plugins: their components, and which failed and why. Imports no torch.

`vtp_core.plugins.load_plugins` makes one; there is no global one. Each plugin has a pluggy manager of its
own, so that none can stop another.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vtp_core.errors import UsageError
from vtp_core.plugins.checks import check_import, check_name, checked_hooks, own_object
from vtp_core.plugins.component import FIRST_PARTY, Component
from vtp_core.plugins.hookspecs import KINDS, Kind, Register, hook_name
from vtp_core.plugins.own import OWN
from vtp_core.plugins.version import InvalidPlugin


class UnknownComponent(UsageError):
    """A name that no working plugin offers.

    Attributes:
        kind: Kind that was looked for.
        name: Name that was looked for.
        advice: What to do about it.
    """

    def __init__(self, kind: Kind, name: str, advice: str) -> None:
        super().__init__(f'unknown {kind} "{name}": {advice}' if advice else f'unknown {kind} "{name}"')
        self.kind = kind
        self.name = name
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin that works.

    Attributes:
        name: Entry-point name, or the stem of a loose file.
        distribution: Installed package, a loose file's path, or "" for one added by hand.
        version: Version of that package, or "".
        components: What it offers.
        loose: Whether it is a file that was named with ``--plugin``.
        notices: What it changed while loading, which was restored.
    """

    name: str
    distribution: str = ""
    version: str = ""
    components: tuple[Component, ...] = ()
    loose: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PluginFailure:
    """A plugin that failed to load; it offers nothing.

    Attributes:
        plugin: Its name.
        distribution: As in `Plugin`.
        version: As in `Plugin`.
        reason: One line.
        traceback: Where it failed, many lines, or "".
    """

    plugin: str
    distribution: str = ""
    version: str = ""
    reason: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"plugin {owner(self)} failed to load: {self.reason}"


def owner(item: Plugin | PluginFailure) -> str:
    """Name of a plugin with the package it came in: ``foo (vtp-plugin-foo 0.2)``."""
    package = " ".join(filter(None, (item.distribution, item.version)))
    return f"{item.name if isinstance(item, Plugin) else item.plugin} ({package or 'added by hand'})"


class Plugins:
    """Working plugins and their components, and the failures of the others.

    Attributes:
        failures: Plugins that were found and don't work.
        left_out: Names of plugins that are installed and were not asked for.
    """

    def __init__(self) -> None:
        self.failures: list[PluginFailure] = []
        self.left_out: list[str] = []
        self._plugins: dict[str, Plugin] = {}
        self._components = {(item.kind, item.name): item for item in OWN}

    def __iter__(self) -> Iterator[Plugin]:
        return iter(self._plugins.values())

    def components(self, kind: Kind | None = None) -> list[Component]:
        """All components, or those of one kind: by kind, then by name."""
        chosen = [item for item in self._components.values() if kind in (None, item.kind)]
        return sorted(chosen, key=lambda item: (KINDS.index(item.kind), item.name))

    def find(self, kind: Kind, name: str) -> Component:
        """The component of that kind and name.

        Raises:
            UnknownComponent: No working plugin offers it; the message says what to do.
        """
        try:
            return self._components[kind, name]
        except KeyError:
            raise UnknownComponent(kind, name, self._advice(kind, name)) from None

    def add(
        self, module: object, name: str, *, distribution: str = "", version: str = "", alias: str = ""
    ) -> Plugin:
        """Checks a plugin, calls its hooks and adds its components; adds none of them if anything fails.

        Args:
            module: A module, or any object with `vtp_api` and hook functions as attributes.
            name: Name of the plugin.
            distribution: Package it came in; components of "vtp-core" get bare names.
            version: Version of that package.
            alias: Module name by which import strings name `module` itself: the stem of a loose file.

        Raises:
            InvalidPlugin: It breaks a rule.
            Exception: Whatever one of its hooks raised.
        """
        plugin = Plugin(name=name, distribution=distribution, version=version, loose=bool(alias))
        check_name(name, "plugin")
        if name in self._plugins:
            both = f"{owner(self._plugins[name])} and {owner(plugin)}"
            raise InvalidPlugin(f'two plugins are called "{name}": {both}; rename or uninstall one')
        components = self._collect(module, plugin, alias)
        plugin = replace(plugin, components=tuple(components))
        self._plugins[name] = plugin
        self._components.update({(item.kind, item.name): item for item in components})
        return plugin

    def note(self, name: str, notices: Sequence[str]) -> None:
        """Records what the plugin `name` changed while loading, which was restored."""
        self._plugins[name] = replace(self._plugins[name], notices=tuple(notices))

    def _collect(self, module: object, plugin: Plugin, alias: str) -> list[Component]:
        """The components that the hooks of `module` register, checked."""
        found: dict[tuple[Kind, str], Component] = {}

        def register_as(kind: Kind) -> Register:
            def register(
                name: str, target: object, *, config: str | type | None = None, summary: str = ""
            ) -> None:
                check_name(name, kind)
                check_import(target, f'target of {kind} "{name}"')
                check_import(config, f'config of {kind} "{name}"')
                full = name if plugin.distribution == FIRST_PARTY else f"{plugin.name}.{name}"
                key = (kind, full)
                if key in found:
                    raise InvalidPlugin(f'{kind} "{full}" is registered twice by {owner(plugin)}')
                if taken := self._components.get(key):
                    known = self._plugins.get(taken.plugin)
                    other = "the core" if known is None else owner(known)
                    raise InvalidPlugin(f'{kind} "{full}" is offered by both {other} and {owner(plugin)}')
                found[key] = Component(
                    kind=kind,
                    name=full,
                    target=own_object(module, alias, target, f'target of {kind} "{name}"'),
                    config=own_object(module, alias, config, f'config of {kind} "{name}"'),
                    summary=summary,
                    plugin=plugin.name,
                    distribution=plugin.distribution,
                    version=plugin.version,
                )

            return register

        hooks = checked_hooks(module, plugin.name)
        for kind in KINDS:
            getattr(hooks, hook_name(kind))(register=register_as(kind))
        return list(found.values())

    def _advice(self, kind: Kind, name: str) -> str:
        plugin, dot, _ = name.partition(".")
        for failure in self.failures:
            if failure.plugin == plugin:
                return f'{failure}; see "vtp plugins list"'
        if plugin in self.left_out:
            return f'plugin "{plugin}" is installed, but VTP_PLUGINS or the caller leaves it out'
        others = [item.kind for item in self.components() if item.name == name]
        if others:
            return f"it is {_article(others[0])}, not {_article(kind)}"
        if dot and plugin not in self._plugins:
            return self._missing_plugin(plugin)
        names = [item.name for item in self.components(kind)]
        if dot:
            names = [item for item in names if item.startswith(f"{plugin}.")]
        close = [item for item in names if item.rpartition(".")[2] == name]
        close = close or difflib.get_close_matches(name, names, 1)
        if close:
            return f'did you mean "{close[0]}"?'
        broken = [str(failure) for failure in self.failures if failure.distribution == FIRST_PARTY]
        offered = f"there are {', '.join(names)}" if names else f"no installed plugin offers {_article(kind)}"
        return "; ".join([offered, *broken])

    def _missing_plugin(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._plugins, 1, 0.75)
        advice = f'did you mean plugin "{close[0]}"?' if close else f"try: pip install vtp-plugin-{name}"
        return f'no plugin "{name}" is installed; {advice}'


def _article(kind: Kind) -> str:
    return f"{'an' if kind[0] in 'aeo' else 'a'} {kind}"
