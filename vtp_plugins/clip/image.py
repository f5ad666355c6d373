"""The image embedding: a projection of the encoder's or the latent's tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.features import Features, Latent


class ImageHead(nn.Module):
    """Tokens of the first global crop to unit-length embeddings.

    Args:
        width: Width of the tokens.
        embedding: Width E of the embedding.
        features: The class token or the mean of the patch tokens.
        reads: Its input, for use after training: the encoder's features or the latent.
    """

    def __init__(
        self,
        width: int,
        embedding: int,
        features: Literal["cls", "pooled"],
        reads: Literal["features", "latent"] = "features",
    ) -> None:
        super().__init__()
        self.kind, self.reads = features, reads
        self.projection = nn.Linear(width, embedding, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def tokens(self, source: Features | Latent) -> Tensor:
        """Tokens of a view for `forward`: class tokens (B, C, D) or patch tokens (B, C, N, D)."""
        tokens = source["global"]
        if self.kind == "pooled":
            return tokens.patches
        if tokens.cls is None:
            raise ValueError("features = 'cls' needs an encoder with a class token; use features = 'pooled'")
        return tokens.cls

    def forward(self, source: Features | Latent | Tensor) -> Tensor:
        """Unit-length embeddings (B, E), float32 or wider.

        Args:
            source: Features or latent of a view, or what `tokens` returned for it.
        """
        projected = self.project(source)
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)

    def project(self, source: Features | Latent | Tensor) -> Tensor:
        """Embeddings (B, E) before they are scaled to length 1; `source` as for `forward`."""
        tokens = source if isinstance(source, Tensor) else self.tokens(source)
        first = tokens[:, 0]
        projected: Tensor = self.projection(first if first.ndim == 2 else first.mean(1))
        return projected
