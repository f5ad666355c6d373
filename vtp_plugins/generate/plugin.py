"""What this plugin offers: the command `vtp generate`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `generate`."""
    register(
        "generate",
        "vtp_plugins.generate.command:generate",
        summary="Generate images with a generator that was trained on a tokenizer's latents.",
    )
