"""`load`: from a folder to a tokenizer, our own artefact or that of another project."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vtp_core.artefact.config import is_artefact
from vtp_core.artefact.folder import read_artefact
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.tokenizer import Tokenizer


class Format(Protocol):
    """Folders of another project; `register_formats` offers such a class, built without arguments."""

    def matches(self, folder: Path) -> bool:
        """Whether the folder looks like this format; never raises, and reads little."""
        ...

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer of a folder that matches, in eval mode on the CPU.

        Raises:
            CheckpointError: It is damaged, or asks for what this reader doesn't know.
        """
        ...

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes the folder whole or not at all; warns of what the format can't hold.

        Raises:
            UsageError: A part of the tokenizer that doesn't fit the format, named.
        """
        ...


def load(folder: str | Path, *, plugins: Plugins | None = None) -> Tokenizer:
    """The tokenizer of a folder, in eval mode, on the CPU; needs no pickle and no training code.

    Args:
        folder: The ``tokenizer`` folder of a run, what ``vtp export`` wrote, or a folder of another project
            that an installed format knows. Or the name of a tokenizer that ships with an installed plugin,
            ``"vtp-nano"``, if there is no folder of that name.
        plugins: Where components and formats are looked up; None: the installed ones.

    Raises:
        CheckpointError: The folder is missing, damaged, unknown or written by a newer version.
        UsageError: A component's plugin is not installed.
    """
    plugins = plugins if plugins is not None else load_plugins()
    folder = locate(folder, plugins)
    reader = None if is_artefact(folder) else _reader(folder, plugins)
    if reader is None and not is_artefact(folder) and is_artefact(inner := folder / "tokenizer"):
        raise CheckpointError(f"{folder}: a run, not a tokenizer; load {inner}")
    # What nobody knows is read as our own: that names what is wrong with it.
    return read_artefact(folder, plugins) if reader is None else reader.read(folder)


def locate(folder: str | Path, plugins: Plugins) -> Path:
    """The folder that `load` reads: that of the shipped tokenizer of this name, else the path itself.

    Raises:
        CheckpointError: A mere name, that of no folder and of no tokenizer that ships.
    """
    path = Path(folder)
    shipped = {component.name: component for component in plugins.components("tokenizer")}
    if path.exists() or path.name != str(folder) or not shipped:
        return path
    if path.name not in shipped:
        known = ", ".join(shipped)
        raise CheckpointError(f"{path}: no tokenizer here, and none of that name ships (there are: {known})")
    found: Path = shipped[path.name].load_target()()
    return found


def find_format(name: str, plugins: Plugins) -> Format:
    """The format of that name.

    Raises:
        UsageError: There is none.
    """
    found: Format = plugins.find("format", name).load_target()()
    return found


def _reader(folder: Path, plugins: Plugins) -> Format | None:
    for component in plugins.components("format"):
        try:
            reader: Format = component.load_target()()
        except UsageError:  # a broken plugin keeps nobody from reading another format
            continue
        if reader.matches(folder):
            return reader
    return None
