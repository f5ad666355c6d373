"""The format `transformers`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vtp_core.artefact.folder import replace_folder
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.transformers_format.reader import is_transformers, read_folder

NAMES = (
    "config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
    "preprocessor_config.json", "tokenizer_config.json", "SHA256SUMS",
)  # fmt: skip
"""The files that `save_pretrained` of the three classes writes, and their hashes."""


class TransformersFormat:
    """Writes model, image processor and text tokenizer by their own `save_pretrained`.

    Attributes:
        holds_statistics: ``config.json`` has those of the latents.
    """

    holds_statistics = True

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` says that it is ours."""
        return is_transformers(folder)

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer; needs no transformers."""
        return read_folder(folder)

    def check_packages(self) -> None:
        """Whether the folder can be written here.

        Raises:
            UsageError: transformers is missing.
        """
        if importlib.util.find_spec("transformers") is None:
            raise UsageError(
                "format transformers: transformers not installed: pip install 'vtp-core[transformers]'"
            )

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes the folder.

        Raises:
            UsageError: transformers is missing, there is no config, or `folder` holds something else.
        """
        self.check_packages()
        from vtp_plugins.transformers.saving import save

        replace_folder(folder, lambda new: save(model, new), is_transformers, NAMES)
