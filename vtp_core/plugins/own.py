"""The core's own components, available without any plugin. Imports no torch."""

from __future__ import annotations

import vtp_core
from vtp_core.plugins.component import Component

_AUGMENTATIONS = {
    "none": "The whole image, squashed to the size.",
    "center": "The centre crop of ADM.",
    "center_flip": "The centre crop of ADM, half of them flipped.",
    "clip": "A random crop of 0.9 to 1 of the area, no flip (open_clip).",
    "crop": "A random crop of 0.08 to 1 of the area, flip (classification).",
    "dino": "DINOv2's crops: random, flip, color, grayscale, blur, solarize.",
    "dino_nominal": "The same with the blur rates of DINOv2's configuration.",
}

OWN: tuple[Component, ...] = (
    Component(
        kind="optimizer",
        name="adamw",
        target="vtp_core.training.optim.algorithm:AdamW",
        config="vtp_core.recipe.tables.optimizer:AdamWConfig",
        summary="AdamW, the default.",
        plugin="core",
        distribution="vtp-core",
        version=vtp_core.__version__,
    ),
    *(
        Component(
            kind="augmentation",
            name=name,
            target="vtp_core.data.crops.augment:BuiltInAugmentation",
            config="vtp_core.recipe.tables.augmentation:BuiltInAugmentationConfig",
            summary=summary,
            plugin="core",
            distribution="vtp-core",
            version=vtp_core.__version__,
        )
        for name, summary in _AUGMENTATIONS.items()
    ),
)
"""By kind, in the order in which messages list them."""
