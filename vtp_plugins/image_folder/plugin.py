"""Registers ``image_folder``. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_sources(register: Register) -> None:
    """The source."""
    register(
        "image_folder",
        "vtp_plugins.image_folder.source:ImageFolder",
        config="vtp_plugins.image_folder.config:ImageFolderConfig",
        summary="images in a folder, or in one folder a class",
    )
