"""`load`: from a folder to a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtp_core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins


def load(folder: str | Path, *, plugins: Plugins | None = None) -> Tokenizer:
    """The tokenizer of an artefact folder, in eval mode, on the CPU; needs no pickle and no training code.

    Args:
        folder: The ``tokenizer`` folder of a run, or what ``vtp export`` wrote.
        plugins: Where components are looked up; None: the installed ones.

    Raises:
        CheckpointError: The folder is missing, damaged or written by a newer version.
        UsageError: A component's plugin is not installed.
    """
    return Tokenizer.load(folder, plugins)
