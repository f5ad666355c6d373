"""The implementations that installed plugins bring, found once a process when an operator is first called.

A run hands its own plugins' kernels to the modules it builds; a bare call of an operator takes these.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch

from vtp_core.ops.choice import Choice, Kernel
from vtp_core.ops.ranking import Ranking
from vtp_core.plugins import BrokenComponent, Component, Plugins, load_plugins
from vtp_core.plugins.component import import_path
from vtp_core.plugins.manager import FIRST_PARTY

KernelT = TypeVar("KernelT", bound=Kernel[Any, Any])

logger = logging.getLogger(__name__)


def kernel_of(component: Component) -> object:
    """What a component of kind kernel is, under the name that recipes use: bare only for the core's own.

    Raises:
        BrokenComponent: It can't be imported, or is no kernel.
    """
    kernel = component.load_target()
    if not isinstance(kernel, Kernel):
        raise BrokenComponent(
            f'kernel "{component.name}" of {component.distribution or component.plugin}: '
            f"{import_path(component.target)} is not a vtp_core.ops.choice.Kernel"
        )
    prefix = "" if component.distribution == FIRST_PARTY else f"{component.plugin}."
    return kernel if kernel.name.startswith(prefix) else replace(kernel, name=prefix + kernel.name)


def offered(plugins: Plugins, kind: type[KernelT]) -> list[KernelT]:
    """The kernels of one operator among those that plugins register, in the order of their components' names.

    A broken component is passed over, a kernel that this machine lacks is left to ``auto`` to pass over; each
    is said once a process, as a warning of this module's logger.

    Args:
        plugins: Where to look.
        kind: The operator's kernel class, such as `SearchKernel`.
    """
    kernels: list[KernelT] = []
    for component in plugins.components("kernel"):
        try:
            target = kernel_of(component)
        except BrokenComponent as error:
            _say_once(str(error))
            continue
        if isinstance(target, kind):
            kernels.append(target)
    for kernel in kernels:
        # On a machine without a GPU nobody misses the kernels for one.
        if kernel.device == "cpu" and (reason := kernel.missing()):
            _say_once(f"kernel {kernel.name}: {reason}; slower torch code serves in its place")
    return kernels


def offered_ranking(plugins: Plugins, choice: type[Choice[Any]], device: torch.device) -> Ranking | None:
    """What the first of the plugins knows that has measured an operator on a device; None if none has.

    Args:
        plugins: Those with the hook `register_rankings`.
        choice: The operator's choice, such as `SearchChoice`.
        device: With an index, or of a type that has one device.
    """
    for component in plugins.components("ranking"):
        try:
            ranking = component.load_target()(choice, device)
        except BrokenComponent as error:
            _say_once(str(error))
            continue
        if isinstance(ranking, Ranking):
            return ranking
    return None


@cache
def installed(kind: type[KernelT]) -> tuple[KernelT, ...]:
    """The kernels of one operator that the entry points of this installation bring."""
    return tuple(offered(_plugins(), kind))


@cache
def installed_ranking(choice: type[Choice[Any]], device: torch.device) -> Ranking | None:
    """What the plugins of this installation have measured of an operator on a device."""
    return offered_ranking(_plugins(), choice, device)


def ranked_device() -> torch.device:
    """Device whose ranking a choice made without a device takes: the present CUDA device, or the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


@cache
def _plugins() -> Plugins:
    return load_plugins()


@cache
def _say_once(message: str) -> None:
    logger.warning(message)
