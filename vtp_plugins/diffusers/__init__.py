"""diffusers' autoencoders as tokenizers, and our tokenizers as models of diffusers.

    from vtp_plugins.diffusers import AutoencoderVTP

    vae = AutoencoderVTP.from_pretrained("FOLDER")      # what `vtp export --format diffusers` wrote
    vae = AutoencoderVTP.from_tokenizer(vtp_core.load("RUN"))

Importing the package imports neither torch nor diffusers; the class does when it is first used. Pipelines
that are loaded with `from_pretrained` find it once this package has been imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtp_plugins.diffusers.model import AutoencoderVTP

__all__ = ["AutoencoderVTP"]


# Pipelines look beside a class for the base class that says how it is loaded.
_HOMES = {"AutoencoderVTP": "vtp_plugins.diffusers.model", "ModelMixin": "diffusers"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vtp_plugins.diffusers' has no attribute {name!r}")
    try:
        return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise ModuleNotFoundError(
            f"{name} needs the package diffusers; install it: pip install 'vtp-core[diffusers]'",
            name="diffusers",
        ) from None
