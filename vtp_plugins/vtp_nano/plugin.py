"""Offers the tokenizer `vtp-nano`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Registers `vtp-nano`."""
    register(
        "vtp-nano",
        "vtp_plugins.vtp_nano.artefact:folder",
        summary="VTP at 64 px on drawings and emoji: 32 x 8 x 8 latents, image and text embeddings, 5 MB",
    )
