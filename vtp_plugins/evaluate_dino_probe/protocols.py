"""The probe of VTP's release as a named protocol. Imports no torch."""

from __future__ import annotations

from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation
from vtp_plugins.evaluate_dino_probe.config import DinoProbeConfig


def published(config: DinoProbeConfig) -> NamedProtocol | None:
    """The named protocol that a table follows; None: our own.

    Args:
        config: The evaluator's table.
    """
    if config.protocol != "vtp-2512":
        return None
    fewer = "" if config.copies == config.epochs else f"-{config.copies}-views"
    return NamedProtocol(
        name=f"vtp-2512-selected-on-held-out{fewer}",
        about="Linear probe of VTP (arXiv 2512.13687, table 2) as its release computes it.",
        image_size=256,
        images=50_000,
        train_images=1_281_167,
        preparation=Preparation(
            crop="shorter_side", shorter=256, size=224, encode="bfloat16", views=config.copies
        ),
        reference="ImageNet's validation set, which also selects head and epoch",
        source="MiniMax-AI/VTP 5ce1eb6, linear probe; the paper's section 4.1 says otherwise",
        unknown=("number of GPUs, of 128 images each",),
    )
