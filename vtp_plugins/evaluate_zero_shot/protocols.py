"""Named protocols of zero-shot classification. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation

PROTOCOLS: Mapping[str, NamedProtocol] = {
    "vtp-2512": NamedProtocol(
        name="vtp-2512",
        about="Zero-shot classification of VTP (arXiv 2512.13687, table 2) as its release computes it.",
        image_size=256,
        images=50_000,
        preparation=Preparation(crop="squash", encode="bfloat16"),
        reference="ImageNet's validation set",
        source="MiniMax-AI/VTP 5ce1eb6, zero-shot script",
    )
}
"""Name in a table -> protocol."""
