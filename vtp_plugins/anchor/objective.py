"""An anchor of the encoder's features at those of a frozen copy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp_core.errors import UsageError
from vtp_core.features import Losses, Tokens
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.align.loss import marginal_cosine, marginal_distances
from vtp_plugins.anchor.config import AnchorConfig


class Anchor(Objective):
    """Distance of the encoder's tokens to those of a frozen network, a term for each set of tokens.

    Raises:
        UsageError: Nothing is compared, or class tokens that can't be.
    """

    config: AnchorConfig

    def __init__(self, config: AnchorConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        if not (config.patches or config.cls or config.layers):
            raise UsageError("anchor: nothing is compared; set patches, cls or layers")
        if config.cls and (config.kind == "distances" or not dims.has_cls):
            raise UsageError("anchor: cls needs an encoder with a class token and kind cosine or mse")

    def forward(self, step: Step) -> Losses:
        """Terms `patches`, `cls` and `layer_<block>`.

        Raises:
            UsageError: The frozen network's tokens have another shape.
        """
        config = self.config
        own = step.encode(config.view)["global"]
        target = step.frozen_features(config.network, config.view, config.layers)["global"]
        pairs = zip(self._compared(own).items(), self._compared(target).values(), strict=True)
        return Losses(
            terms={name: step.mean(self._distance(name, tokens, theirs)) for (name, tokens), theirs in pairs}
        )

    def _compared(self, tokens: Tokens) -> dict[str, Tensor | None]:
        """Name of a term -> its tokens, (B, C, N, D) or (B, C, D)."""
        found: dict[str, Tensor | None] = {}
        if self.config.patches:
            found["patches"] = tokens.patches
        if self.config.cls:
            found["cls"] = tokens.cls
        return found | {f"layer_{layer}": tokens.layers[layer] for layer in self.config.layers}

    def _distance(self, name: str, tokens: Tensor | None, target: Tensor | None) -> Tensor:
        """Distances by token, or by image for `distances`."""
        if tokens is None or target is None or tokens.shape != target.shape:
            shapes = [None if each is None else tuple(each.shape[1:]) for each in (tokens, target)]
            raise UsageError(
                f"anchor: {name} of [frozen.{self.config.network}] are {shapes[1]}, the encoder's "
                f"{shapes[0]}; the copy needs the encoder's table"
            )
        if self.config.kind == "distances":
            return marginal_distances(tokens, target, 0.0)
        if self.config.kind == "cosine":
            return marginal_cosine(tokens, target, 0.0)
        wide = torch.promote_types(tokens.dtype, torch.float32)
        return F.mse_loss(tokens.to(wide), target.to(wide), reduction="none").mean(-1)
