"""The `rae` format: stage 1 of RAE, from its own configuration."""

from __future__ import annotations

from pathlib import Path

from vtp_core.errors import CheckpointError, UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.rae.reader import find_config, read_model


class RaeFormat:
    """Reads the published models of RAE (arXiv 2510.11690)."""

    def matches(self, folder: Path) -> bool:
        """Whether it is a configuration with the target ``stage1.RAE``, or a folder with exactly one."""
        try:
            return find_config(folder) is not None
        except OSError:
            return False

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer; its latents are normalised by the published statistics, as the owner's.

        Raises:
            CheckpointError: A file is missing, or a setting or tensor is not what this reader knows.
        """
        config = find_config(folder)
        if config is None:
            raise CheckpointError(f"{folder}: no configuration of RAE (target: stage1.RAE)")
        return read_model(config)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Nothing is written in this layout.

        Raises:
            UsageError: Always.
        """
        raise UsageError("format rae: it can only be read; export our own format instead")
