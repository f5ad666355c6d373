"""Batches: the rows of one view in one step.

Pixels travel as uint8 from the loader's workers; `Batch.to` moves them to the device and normalises them.
Rows are dealt round-robin: local row j of rank r is global row j * W + r of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtp_core.pixels import normalize


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Masked patches of a view's global crops.

    Attributes:
        mask: (B, C, N) bool, True = replaced by the mask token.
        weight: (B, C, N) float32, 1 / (masked patches of the crop) where masked, else 0 (iBOT).
    """

    mask: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one view.

    Attributes:
        crops: Crop set name -> (B, C, 3, H, W); uint8 in [0, 255] from the loader, float32 normalised by
            ImageNet mean and standard deviation after `to`.
        keys: Sample keys, B strings.
        text: Captions, B strings, or None.
        label: (B,) int64, or None.
        masks: Masked patches, or None.
        latent: Cached latents (B, d, h, w) float32, or None.
        rows: Rows of the step over all ranks.
    """

    crops: Mapping[str, Tensor]
    keys: tuple[str, ...]
    text: tuple[str, ...] | None = None
    label: Tensor | None = None
    masks: Masks | None = None
    latent: Tensor | None = None
    rows: int = 0

    @property
    def image(self) -> Tensor:
        """First global crop, (B, 3, H, W)."""
        return self.crops["global"][:, 0]

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, rows: int, world_size: int) -> Batch:
        """The first `rows` global rows of the step, those of them that this rank holds.

        Args:
            rows: Global rows wanted, a multiple of `world_size`.
            world_size: Number of ranks the rows are dealt to.
        """
        if rows >= self.rows:
            return self
        local = rows // world_size
        masks = self.masks
        return replace(
            self,
            crops={name: pixels[:local] for name, pixels in self.crops.items()},
            keys=self.keys[:local],
            text=None if self.text is None else self.text[:local],
            label=None if self.label is None else self.label[:local],
            masks=None if masks is None else Masks(mask=masks.mask[:local], weight=masks.weight[:local]),
            latent=None if self.latent is None else self.latent[:local],
            rows=rows,
        )

    def pin_memory(self) -> Batch:
        """The batch with its pixels in page-locked memory, for a copy to a GPU that does not wait."""
        return replace(self, crops={name: pixels.pin_memory() for name, pixels in self.crops.items()})

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, uint8 pixels normalised to float32."""
        masks = self.masks

        def pixels(crop: Tensor) -> Tensor:
            crop = crop.to(device, non_blocking=True)
            return normalize(crop.float() / 255) if crop.dtype == torch.uint8 else crop

        moved_masks = None
        if masks is not None:
            moved_masks = Masks(mask=masks.mask.to(device), weight=masks.weight.to(device))
        return replace(
            self,
            crops={name: pixels(crop) for name, crop in self.crops.items()},
            label=None if self.label is None else self.label.to(device),
            masks=moved_masks,
            latent=None if self.latent is None else self.latent.to(device),
        )
