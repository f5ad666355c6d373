"""Registers ``webdataset``. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_sources(register: Register) -> None:
    """The source."""
    register(
        "webdataset",
        "vtp_plugins.webdataset.source:WebDataset",
        config="vtp_plugins.webdataset.config:WebDatasetConfig",
        summary="tar shards as webdataset and img2dataset write them, read by index",
    )
