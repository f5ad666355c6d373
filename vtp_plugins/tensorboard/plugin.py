"""Offers the callback `tensorboard`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_callbacks(register: vtp.Register) -> None:
    """Offers `tensorboard`."""
    register(
        "tensorboard",
        "vtp_plugins.tensorboard.callback:TensorBoard",
        config="vtp_plugins.tensorboard.config:TensorBoardConfig",
        summary="Writes logged values and results as TensorBoard event files.",
    )
