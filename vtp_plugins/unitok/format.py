"""The `unitok` format: the file of FoundationVision/UniTok's tokenizer."""

from __future__ import annotations

from pathlib import Path

from vtp_core.errors import CheckpointError, UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.unitok.reader import find_files, read_model


class UniTokFormat:
    """Reads a UniTok as the parts `unitok`; the text tower in the file is left out."""

    license = "of the published weights: MIT (FoundationVision/UniTok)"

    def matches(self, folder: Path) -> bool:
        """Whether it is a file of weights with these names, or a folder with exactly one."""
        try:
            return find_files(folder) is not None
        except CheckpointError:  # tensors without settings: `read` says so
            return True
        except OSError:
            return False

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer.

        Raises:
            CheckpointError: A tensor is missing, foreign or misshapen, or settings and tensors
                are of different models.
        """
        files = find_files(folder)
        if files is None:
            raise CheckpointError(f"{folder}: not a UniTok: needs one file with trainer.unitok in it")
        return read_model(files)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Refuses: the owner's file also holds a text tower, which is not read.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "format unitok: is only read, as its file also holds a text tower; export our own format instead"
        )
