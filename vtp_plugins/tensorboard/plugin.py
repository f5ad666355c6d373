"""Offers the callback `tensorboard`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_callbacks(register: Register) -> None:
    """Offers `tensorboard`."""
    register(
        "tensorboard",
        "vtp_plugins.tensorboard.callback:TensorBoard",
        config="vtp_plugins.tensorboard.config:TensorBoardConfig",
        summary="Writes logged values and results as TensorBoard event files.",
    )
