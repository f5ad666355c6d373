"""Offers the tokenizer `vtp-nano`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_tokenizers(register: vtp.Register) -> None:
    """Registers `vtp-nano`."""
    register(
        "vtp-nano",
        "vtp_plugins.vtp_nano.artefact:folder",
        summary="VTP at 64 px on drawings and emoji: 32 x 8 x 8 latents, image and text embeddings, 5 MB",
    )
