"""Registers ``image_folder``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    """The source."""
    register(
        "image_folder",
        "vtp_plugins.image_folder.source:ImageFolder",
        config="vtp_plugins.image_folder.config:ImageFolderConfig",
        summary="images in a folder, or in one folder a class",
    )
