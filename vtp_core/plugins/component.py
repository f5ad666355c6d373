"""A component that a plugin offers: found by kind and name, imported when used. Imports no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from vtp_core.errors import UsageError
from vtp_core.plugins.hookspecs import Kind
from vtp_core.plugins.isolation import isolated

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig

FIRST_PARTY = "vtp-core"
"""Distribution whose components have bare names; all others carry their plugin's name in front."""

# Kinds whose components are subclasses of an interface of the core; the rest are duck-typed.
_BASES: dict[str, str] = {
    "encoder": "vtp_core.encoder:Encoder",
    "bottleneck": "vtp_core.bottleneck:Bottleneck",
    "decoder": "vtp_core.decoder:Decoder",
    "objective": "vtp_core.objective:Objective",
    "optimizer": "vtp_core.training.optim.algorithm:OptimizerAlgorithm",
    "augmentation": "vtp_core.data.augmentation:Augmentation",
    "evaluator": "vtp_core.evaluation.evaluator:Evaluator",
    "callback": "vtp_core.run.callback:Callback",
    "command": "click:Command",
}


class BrokenComponent(UsageError):
    """A registered component that can't be imported or is not of its kind."""


def one_line(error: BaseException) -> str:
    """An error's type and message on one line; of a `UsageError` the message alone."""
    message = " ".join(str(error).split())
    if isinstance(error, UsageError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def import_object(path: str) -> Any:
    """The object that ``"package.module:attribute"`` names; the attribute may have dots."""
    module, _, attribute = path.partition(":")
    return reduce(getattr, attribute.split("."), importlib.import_module(module))


def import_path(target: object) -> str:
    """A target or config as an import string: as registered, or where the object is defined."""
    if isinstance(target, str):
        return target
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}:{named.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class Component:
    """Something that a recipe or the command line can use by name.

    Attributes:
        kind: Its kind.
        name: As recipes write it: bare for first-party components, else ``<plugin>.<name>``.
        target: Import string, or the object itself.
        config: Import string or class of its recipe table; None: no keys of its own.
        summary: One line.
        plugin: Name of the plugin that offers it.
        distribution: Installed package of the plugin, a loose file's path, or "" for one added by hand.
        version: Version of that package, or "".
    """

    kind: Kind
    name: str
    target: object
    config: str | type | None = None
    summary: str = ""
    plugin: str
    distribution: str = ""
    version: str = ""

    def load_target(self) -> Any:
        """Imports the component: a class for most kinds.

        Raises:
            BrokenComponent: The import failed, or it is not of its kind's base class.
        """
        target = self._import(self.target)
        if self.kind in _BASES:
            base = import_object(_BASES[self.kind])
            fits = isinstance(target, base) if self.kind == "command" else _is_subclass(target, base)
            if not fits:
                raise self.broken(f"is not a {_BASES[self.kind].replace(':', '.')}")
        return target

    def load_config(self) -> type[ComponentConfig]:
        """Imports the model of the component's recipe table; no torch, if the plugin keeps to the rule.

        Returns:
            The model; that of all components of the kind if this one has no keys of its own.

        Raises:
            BrokenComponent: The import failed, or it is no subclass of the kind's base class
                (`vtp_core.config.base_config`).
        """
        # pydantic is half of what a start takes, and listing components needs none of it.
        from vtp_core.config import base_config

        base = base_config(self.kind)
        if self.config is None:
            return base
        config = self._import(self.config)
        if not (isinstance(config, type) and issubclass(config, base)):
            raise self.broken(f"is not a {base.__module__}.{base.__name__}", self.config)
        return config

    def _import(self, target: object) -> Any:
        if not isinstance(target, str):
            return target
        try:
            with isolated(self.watched_as):
                return import_object(target)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:
            raise self.broken(f"failed to import: {one_line(error)}", target) from error

    @property
    def watched_as(self) -> str:
        """Who runs, for `isolated`: empty for the core's own components."""
        return "" if self.distribution == FIRST_PARTY else f"{self.kind} {self.name} of {self._owner}"

    @property
    def _owner(self) -> str:
        return " ".join(filter(None, (self.distribution or self.plugin, self.version)))

    def broken(self, what: str, target: object = None) -> BrokenComponent:
        """The error for a target, or other object of the component, that is not usable; `what` says why."""
        path = import_path(self.target if target is None else target)
        return BrokenComponent(f'{self.kind} "{self.name}" of {self._owner}: {path} {what}')


def _is_subclass(target: object, base: type) -> bool:
    return isinstance(target, type) and issubclass(target, base)
