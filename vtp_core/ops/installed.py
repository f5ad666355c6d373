"""Kernels and rankings of installed plugins, loaded once per process when an operator is first called.

A run passes the kernels of its own plugins to the modules that it builds; a direct call of an operator uses
those of this module.
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
from vtp_core.plugins.component import FIRST_PARTY, import_path

KernelT = TypeVar("KernelT", bound=Kernel[Any, Any])

logger = logging.getLogger(__name__)


def kernel_of(component: Component) -> object:
    """The kernel of a component, under the name that recipes use: without a prefix only for first-party ones.

    Raises:
        BrokenComponent: The import fails, or the object is not a kernel.
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
    """The kernels of one operator that plugins register, in the order of their components' names.

    Broken components are skipped. Kernels that can't run on this machine stay in the list, and ``auto`` skips
    them. Broken components and missing CPU kernels are logged as warnings, once per process.

    Args:
        plugins: The loaded plugins.
        kind: The operator's kernel class, such as `SearchKernel`.
    """
    kernels: list[KernelT] = []
    for component in plugins.components("kernel"):
        try:
            target = kernel_of(component)
        except BrokenComponent as error:
            _warn_once(str(error))
            continue
        if isinstance(target, kind):
            kernels.append(target)
    for kernel in kernels:
        # Kernels for GPUs can't run on a machine without one; that is no reason to warn.
        if kernel.device == "cpu" and (reason := kernel.missing()):
            _warn_once(f"kernel {kernel.name}: {reason}; slower torch code is used instead")
    return kernels


def offered_ranking(plugins: Plugins, choice: type[Choice[Any]], device: torch.device) -> Ranking | None:
    """The ranking of an operator on a device from the first plugin that has one, else None.

    Args:
        plugins: The loaded plugins.
        choice: The operator's choice, such as `SearchChoice`.
        device: With an index, or of a type that has one device.
    """
    for component in plugins.components("ranking"):
        try:
            ranking = component.load_target()(choice, device)
        except BrokenComponent as error:
            _warn_once(str(error))
            continue
        if isinstance(ranking, Ranking):
            return ranking
    return None


@cache
def installed(kind: type[KernelT]) -> tuple[KernelT, ...]:
    """The kernels of one operator from the installed plugins."""
    return tuple(offered(_plugins(), kind))


@cache
def installed_ranking(choice: type[Choice[Any]], device: torch.device) -> Ranking | None:
    """The ranking of an operator on a device from the installed plugins, or None."""
    return offered_ranking(_plugins(), choice, device)


def ranked_device() -> torch.device:
    """Device for a choice that names none: the current CUDA device, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


@cache
def _plugins() -> Plugins:
    return load_plugins()


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
