"""The `vtp` format: folders of the published models."""

from __future__ import annotations

from pathlib import Path

import torch

from vtp_core.artefact.config import is_artefact, read_json
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.errors import CheckpointError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.vtp.fit import config_of
from vtp_plugins.vtp.layout import PERIODS, published_tensors
from vtp_plugins.vtp.model import VTPModel
from vtp_plugins.vtp.reader import WEIGHTS, read_model


class VtpFormat:
    """Reads and writes ``config.json`` and ``model.safetensors`` as the VTP release has them."""

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` says ``model_type`` vtp."""
        try:
            return read_json(folder / "config.json").get("model_type") == "vtp"
        except CheckpointError:
            return False

    def read(self, folder: Path) -> VTPModel:
        """The model, with bfloat16 rotary positions unless the config says otherwise."""
        return read_model(VTPModel, folder)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes a tokenizer of the parts `vit`, `linear`, `vit` and `clip`.

        Raises:
            UsageError: A part that doesn't fit, named; or `folder` holds something else.
        """
        config = config_of(model)
        tensors = published_tensors(model, scalar=not config.nonscalar_logit_scale)
        if isinstance(model, VTPModel):
            tensors |= model.periods
        tensors |= {name: tensors[name].to(torch.bfloat16) for name in PERIODS if name in tensors}
        dtype = str(model.encoder.get_parameter("mask_token").dtype).removeprefix("torch.")

        def fill(new: Path) -> None:
            write_weights(new / WEIGHTS, tensors)
            (new / "config.json").write_text(config.published(dtype), encoding="utf-8")

        replace_folder(folder, fill, lambda old: is_artefact(old) or self.matches(old))
