"""The `vtp` format: folders of the published models."""

from __future__ import annotations

from pathlib import Path

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.vtp.fit import config_of
from vtp_plugins.vtp.model import VTPModel
from vtp_plugins.vtp.reader import LICENSE, is_published, read_model
from vtp_plugins.vtp.writer import write_model


class VtpFormat:
    """Reads and writes ``config.json`` and ``model.safetensors`` as the VTP release has them.

    Statistics of the latents are further keys of ``config.json``, which the published code leaves alone.
    """

    holds_statistics = True

    license = LICENSE

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` says ``model_type`` vtp."""
        return is_published(folder)

    def read(self, folder: Path) -> VTPModel:
        """The model, with bfloat16 rotary positions unless the config says otherwise."""
        return read_model(VTPModel, folder)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes a tokenizer of the parts `vit`, `linear`, `vit` and `clip`.

        Raises:
            UsageError: A part that doesn't fit, named; or `folder` holds something else.
        """
        periods = model.periods if isinstance(model, VTPModel) else {}
        write_model(model, config_of(model), folder, periods)
