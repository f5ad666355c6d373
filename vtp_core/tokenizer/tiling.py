"""Encoding and decoding of images that are too large for the device's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.tokenizer.model import Tokenizer


def set_strips(tokenizer: Tokenizer, rows: int | None) -> None:
    """Lets encoder and decoder run on strips of that many rows of their maps, or on whole maps (None).

    Raises:
        UsageError: No number of rows, or a network whose result strips would change.
    """
    if rows is not None and (type(rows) is not int or rows < 1):
        raise UsageError(f"enable_tiling: rows must be a positive number, or None; got {rows!r}")
    networks = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    parts = {name: network for name, network in networks.items() if network is not None}
    for name, network in parts.items():
        if not network.has_strips and rows is not None:
            raise UsageError(
                f"enable_tiling: strips would change what the {name} makes, whose tokens all see each other; "
                "encode smaller images"
            )
    for network in parts.values():
        network.strip_rows = rows
