"""``--device``, whose spelling is checked before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vtp_core.errors import UsageError

if TYPE_CHECKING:
    import torch

Command = TypeVar("Command", bound=Callable[..., Any])

_NAME = re.compile(r"(cpu|mps|(cuda|xpu)(:\d+)?)")


def device_option(command: Command) -> Command:
    """``--device NAME``: passed as `device`."""
    option = click.option(
        "--device",
        default="cpu",
        show_default=True,
        callback=lambda context, parameter, name: check_device(name),
        help="Where to compute: cpu, cuda, cuda:1.",
    )
    return option(command)


def check_device(name: str) -> str:
    """The name itself.

    Raises:
        UsageError: It is none of a device.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--device {name}: unknown; use cpu, cuda or cuda:1 (`vtp doctor` lists yours)")
    return name


def torch_device(name: str) -> torch.device:
    """The device of a checked name.

    Raises:
        UsageError: torch has no such device here.
    """
    import torch

    device = torch.device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}; see `vtp doctor`") from error
    return device
