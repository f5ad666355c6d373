"""Arguments and options that several commands share. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.output import STDOUT
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    import torch

Command = TypeVar("Command", bound=Callable[..., Any])

_DEVICE = re.compile(r"(cpu|mps|(cuda|xpu)(:\d+)?)")


def recipe_argument(command: Command) -> Command:
    """``RECIPE``: passed as `recipe`."""
    return click.argument("recipe", metavar="RECIPE", shell_complete=completion.recipes)(command)


def json_file_option(command: Command) -> Command:
    """``--json [FILE]``, for results beside tables: passed as `json_file`, `STDOUT` without FILE."""
    option = click.option(
        "--json",
        "json_file",
        is_flag=False,
        flag_value=str(STDOUT),
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="[FILE]",
        help="Write all results to FILE; without FILE they are printed, and tables go to standard error.",
    )
    return option(command)


def tokenizer_argument(command: Command) -> Command:
    """``TOKENIZER``, the folder of a run or of a tokenizer or a shipped name: passed as `tokenizer`."""
    argument = click.argument("tokenizer", metavar="TOKENIZER", shell_complete=completion.tokenizers)
    return argument(command)


def json_option(command: Command) -> Command:
    """``--json``: passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def set_option(command: Command) -> Command:
    """``-s KEY.PATH=VALUE``, any number of times: passed as `overrides`."""
    option = click.option(
        "-s",
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a key of the recipe, such as run.steps=10; the value is TOML, else a string.",
    )
    return option(command)


def changes_option(about: str) -> Callable[[Command], Command]:
    """``-s KEY=VALUE``, any number of times: passed as `changes`, for `read_changes`.

    Args:
        about: Its help.
    """
    return click.option("-s", "--set", "changes", multiple=True, metavar="KEY=VALUE", help=about)


def read_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Settings as ``key=value`` with JSON values; anything else is a string.

    Raises:
        UsageError: There is no ``=``.
    """
    found: dict[str, Any] = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise UsageError(f"--set {change}: give KEY=VALUE, such as steps=20")
        try:
            found[key.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[key.strip()] = value
    return found


def plugin_option(command: Command) -> Command:
    """``--plugin FILE``, any number of times: passed as `plugin_files`."""
    option = click.option(
        "--plugin",
        "plugin_files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Load a Python file as a plugin.",
    )
    return option(command)


def fast_option(command: Command) -> Command:
    """``--fast/--exact``: passed as `fast`."""
    option = click.option(
        "--fast/--exact",
        default=True,
        show_default=True,
        help="Let plugins prepare the tokenizer for this device; results may differ in rounding.",
    )
    return option(command)


def world_size_option(command: Command) -> Command:
    """``--world-size N``: passed as `world_size`, None if not given."""
    option = click.option(
        "--world-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Ranks to check for; default: what the recipe plans for, or 1.",
    )
    return option(command)


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
    if not _DEVICE.fullmatch(name):
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
