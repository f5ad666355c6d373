"""Loads a tokenizer from an artefact folder or from a folder of another project."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from vtp_core.artefact.config import is_artefact
from vtp_core.artefact.finding import find_tokenizer, run_of_checkpoint
from vtp_core.artefact.folder import read_artefact
from vtp_core.artefact.from_recipe import newest_tokenizer
from vtp_core.artefact.license import state_license
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.recipe.history import RESOLVED
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_weights

_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Format(Protocol):
    """Reader and writer of another project's folders and files; `register_formats` offers such a class.

    Three more members are optional: ``license``, of the published weights, which model cards and
    `vtp eval --leaderboard` state unless the folder's own card names one, or `is_export` says that it was
    written here; and for `vtp export`
    ``holds_statistics = True`` if its folders hold statistics of the latents, which are then measured first,
    and ``check_packages()``, which raises a `UsageError` if a package is missing that `write` needs.
    """

    def matches(self, folder: Path) -> bool:
        """Whether the folder or file has this format; raises nothing and reads little."""
        ...

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer of a folder or file that matches, in eval mode on the CPU.

        Raises:
            CheckpointError: It is damaged or uses something that this reader doesn't support.
        """
        ...

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes the folder atomically; warns of what the format can't hold.

        Raises:
            UsageError: Names a part of the tokenizer that doesn't fit the format.
        """
        ...


def load(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    plugins: Plugins | None = None,
) -> Tokenizer:
    """The tokenizer of a folder, in eval mode; uses neither pickle nor training code.

    Args:
        folder: A run folder, one of its checkpoints, what ``vtp export`` wrote, or a folder or file of
            another project of an installed format. Or the name of a tokenizer that ships with an installed
            plugin, ``"vtp-nano"``, if there is no folder of that name.
        device: Where its weights go, such as ``"cuda"``; None: the CPU.
        dtype: Floating type of its weights, ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"`` or
            torch's object; None: float32.
        plugins: Where components and formats are looked up; None: the installed ones.

    Raises:
        CheckpointError: The folder is missing, damaged, unknown or written by a newer version, or a weight is
            not finite.
        UsageError: A component's plugin is not installed, or there is no such device or dtype.
    """
    if not isinstance(folder, str | Path):
        raise UsageError(f"load: expected a folder or a name, got {type(folder).__name__}")
    place = _device(device), _dtype(dtype)
    plugins = plugins if plugins is not None else load_plugins()
    folder = find_tokenizer(folder, plugins)
    if (run := run_of_checkpoint(folder)) is not None:
        model, _, _ = newest_tokenizer(folder, load_recipe(run / RESOLVED, plugins=plugins), plugins)
    else:
        reader = None if is_artefact(folder) else format_of(folder, plugins)
        if reader is None and folder.is_file():
            raise CheckpointError(
                f"{folder}: no installed format reads this file; `vtp plugins list` names them. Of a pickle "
                "only plain tensors are read, nothing in it was executed"
            )
        # A folder of unknown format is read as our own, whose errors say what is wrong with it.
        model = read_artefact(folder, plugins) if reader is None else reader.read(folder)
        if reader is not None:
            state_license(model, folder, getattr(reader, "license", ""))
    check_weights(folder, model)
    return model.to(device=place[0], dtype=place[1])


def _device(name: str | torch.device | None) -> torch.device | None:
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # as torch says that it has none
        raise UsageError(f"load: device {name}: {str(error).splitlines()[0]}; see `vtp doctor`") from error
    return device


def _dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    if name is None:
        return None
    known = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}
    given = str(name).removeprefix("torch.")
    if (dtype := known.get(_SHORT.get(given, given))) is None:
        raise UsageError(f"load: dtype {name}: expected one of {', '.join(known)}")
    return dtype


def find_format(name: str, plugins: Plugins) -> Format:
    """The format of that name.

    Raises:
        UsageError: There is none.
    """
    found: Format = plugins.find("format", name).load_target()()
    return found


def format_of(folder: Path, plugins: Plugins) -> Format | None:
    """The installed format of a folder or file of another project; None: there is none."""
    for component in plugins.components("format"):
        try:
            reader: Format = component.load_target()()
        except UsageError:  # a broken plugin must not stop other formats from being read
            continue
        if reader.matches(folder):
            return reader
    return None
