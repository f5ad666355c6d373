"""The `diffusers` format: folders of diffusers' autoencoders."""

from __future__ import annotations

from pathlib import Path

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers.network import library
from vtp_plugins.diffusers.reader import read_model, read_settings


class DiffusersFormat:
    """Reads and writes ``config.json`` and ``diffusion_pytorch_model.safetensors``."""

    holds_statistics = True

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` names a class of diffusers, or ``vae/config.json`` of a pipeline does."""
        return read_settings(folder) is not None

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer, with diffusers' own class in its encoder and decoder."""
        return read_model(folder)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes diffusers' own class where it holds the tokenizer, else an ``AutoencoderVTP``.

        Raises:
            UsageError: It has no decoder, or `folder` holds something else.
        """
        from vtp_plugins.diffusers.writer import write_model

        write_model(model, folder)

    def check_packages(self) -> None:
        """Refuses to write without diffusers.

        Raises:
            UsageError: It is not installed.
        """
        library("format diffusers")
