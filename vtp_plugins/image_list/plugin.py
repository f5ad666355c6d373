"""Registers ``image_list``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    """The source."""
    register(
        "image_list",
        "vtp_plugins.image_list.source:ImageList",
        config="vtp_plugins.image_list.config:ImageListConfig",
        summary="image files that a CSV, JSONL or parquet table lists, with captions and labels",
    )
