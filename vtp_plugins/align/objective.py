"""VA-VAE's alignment of the latent with a frozen network (Yao et al. 2025, arXiv 2501.01423)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vtp_core.errors import UsageError
from vtp_core.features import Losses, Tokens
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.align.config import AlignConfig
from vtp_plugins.align.loss import marginal_cosine, marginal_distances


class Align(Objective):
    """Marginal cosine and distance-matrix similarity of projected latents and frozen features.

    Both are taken after the projection to the network's width, as in the public code.
    """

    config: AlignConfig

    def __init__(self, config: AlignConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.project = nn.Linear(dims.channels, config.width, bias=False)

    def forward(self, step: Step) -> Losses:
        """Terms `cosine` and `distance`; with `adaptive`, the report has their common weight.

        Raises:
            UsageError: The frozen network's tokens have another grid or width.
        """
        config = self.config
        latent = step.tokenize(config.view)["global"]
        target = self._target(step, latent)
        projected = step.call(self.project, latent.patches)
        cosine = marginal_cosine(projected, target, config.cosine_margin)
        distance = marginal_distances(projected, target, config.distance_margin)
        terms = {
            "cosine": config.cosine * step.mean(cosine),
            "distance": config.distance * step.mean(distance),
        }
        if not config.adaptive:
            return Losses(terms=terms)
        weight = self._weight(step, terms["cosine"] + terms["distance"], projected, latent.patches)
        terms = {name: weight * term for name, term in terms.items()}
        return Losses(terms=terms, report={"weight": weight})

    def _weight(self, step: Step, loss: Tensor, projected: Tensor, latent: Tensor) -> Tensor:
        """Ratio of the other objectives' gradient at the latent to that of `loss`, a scalar.

        `projected` is a leaf (`step.call`), so its gradient goes through the projection here.
        """
        (at_projected,) = torch.autograd.grad(loss, projected, retain_graph=True)
        weight = self.project.weight.detach()
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
        at_latent = at_projected.to(weight.dtype) @ weight
        _, ratio = step.balance((latent * at_latent).sum(), latent, limit=1e8)  # VA-VAE's limit
        return ratio

    def _target(self, step: Step, latent: Tokens) -> Tensor:
        """The frozen features of the latent's crops, (B, C, N, width)."""
        config = self.config
        layers = () if config.layer is None else (config.layer,)
        tokens = step.frozen_features(config.network, config.view, layers)["global"]
        target = tokens.patches if config.layer is None else tokens.layers[config.layer]
        expected = (*latent.patches.shape[:3], config.width)
        if tokens.grid != latent.grid or target.shape != expected:
            raise UsageError(
                f"align: [frozen.{config.network}] gives tokens {tuple(target.shape)} on a grid of "
                f"{tokens.grid}, not {expected} on the latent's {latent.grid}; set its `patch`, and "
                "`width` here"
            )
        return target
