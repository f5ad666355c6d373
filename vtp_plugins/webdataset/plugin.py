"""Registers ``webdataset``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    """The source."""
    register(
        "webdataset",
        "vtp_plugins.webdataset.source:WebDataset",
        config="vtp_plugins.webdataset.config:WebDatasetConfig",
        summary="tar shards as webdataset and img2dataset write them, read by index",
    )
