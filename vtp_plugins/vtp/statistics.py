"""Statistics of the latents: those of a ``config.json`` that we wrote, or the published ones. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtp_plugins.vtp.options import PublishedConfig

STATISTICS = ("latents_mean", "latents_std", "scaling_factor", "latents_stats_protocol")
"""Keys that `VtpFormat` adds to the published ``config.json``, null where unknown."""
SIZES: Mapping[tuple[int, int, int], str] = {(384, 12, 6): "s", (768, 12, 12): "b", (1024, 24, 16): "l"}
"""Width, depth and heads of encoder and decoder -> published model."""
FILE = Path(__file__).parent / "data" / "latent_stats.json"


def statistics_of(raw: Mapping[str, Any], options: PublishedConfig) -> dict[str, Any]:
    """The statistics for a ``config.json``, by the keys of an artefact; empty if they are unknown.

    A published file has none of `STATISTICS`: by its sizes it is a published model, whose statistics ship
    here. A file that we wrote has them all, so that a model of the same sizes is not taken for that one.

    Args:
        raw: The file's content.
        options: Its published keys, checked.
    """
    if any(key in raw for key in STATISTICS):
        return {key: raw[key] for key in STATISTICS if raw.get(key) is not None}
    model = published_size(options)
    if model is None:
        return {}
    numbers = json.loads(FILE.read_text(encoding="utf-8"))[model]
    return {
        "latents_mean": tuple(numbers["mean"]),
        "latents_std": tuple(numbers["std"]),
        "latents_stats_protocol": f"published for VTP-{model.upper()}: ImageNet, 256 px (MiniMax-AI/VTP)",
    }


def published_size(options: PublishedConfig) -> str | None:
    """``"s"``, ``"b"`` or ``"l"`` if these are the sizes of that published model, else None."""
    sizes = {
        (
            getattr(options, f"{part}_embed_dim"),
            getattr(options, f"{part}_depth"),
            getattr(options, f"{part}_num_heads"),
        )
        for part in ("vision", "decoder")
    }
    fixed = (options.image_size, options.vision_patch_size, options.channels, options.train_reconstruction)
    if len(sizes) != 1 or fixed != (256, 16, 64, True):
        return None
    return SIZES.get(sizes.pop())
