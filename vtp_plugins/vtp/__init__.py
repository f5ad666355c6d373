"""The published VTP models (arXiv 2512.13687): reader, writer and their public names.

    from vtp_plugins.vtp import VTPConfig, VTPModel, get_tokenizer

    model = VTPModel.from_pretrained("VTP-Large-f16d64")     # also: vtp_core.load("VTP-Large-f16d64")
    latents = model.get_reconstruction_latents(pixels)
    images = model.get_latents_decoded_images(latents)

Importing the package imports no torch; the names do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtp_plugins.vtp.config import VTPConfig
    from vtp_plugins.vtp.model import VTPModel
    from vtp_plugins.vtp.tokenizer import get_tokenizer

__all__ = ["VTPConfig", "VTPModel", "get_tokenizer"]

_HOMES = {
    "VTPConfig": "vtp_plugins.vtp.config",
    "VTPModel": "vtp_plugins.vtp.model",
    "get_tokenizer": "vtp_plugins.vtp.tokenizer",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vtp_plugins.vtp' has no attribute {name!r}")
    return getattr(import_module(home), name)
