"""Results of a tokenizer's `encode` and `decode`, with diffusers' names.

Shapes: B images, d latent channels, h x w positions, Q codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DETERMINISTIC_LOGVAR = -30.0
"""Log variance of a deterministic latent: the minimum to which diffusers clamps."""


@dataclass(frozen=True, kw_only=True)
class LatentDistribution:
    """A diagonal Gaussian over latents, with diffusers' names.

    Attributes:
        mean: (B, d, h, w).
        logvar: (B, d, h, w); -30 everywhere if the latent is deterministic.
        deterministic: Whether `var` and `std` are exactly zero and `sample` returns the mean.
    """

    mean: Tensor
    logvar: Tensor
    deterministic: bool

    @property
    def var(self) -> Tensor:
        """Variance, (B, d, h, w)."""
        return torch.zeros_like(self.mean) if self.deterministic else self.logvar.exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation, (B, d, h, w)."""
        return torch.zeros_like(self.mean) if self.deterministic else (0.5 * self.logvar).exp()

    def mode(self) -> Tensor:
        """The most likely latent, (B, d, h, w)."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A random latent, (B, d, h, w).

        Args:
            generator: On the latent's device; None draws from torch's global generator.
        """
        if self.deterministic:
            return self.mean
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Result of `Tokenizer.encode`.

    Attributes:
        latent: (B, d, h, w), the mode of `latent_dist`.
        latent_dist: The distribution; of zero variance unless the bottleneck is variational.
        indices: (B, Q, h, w) int64, one index per codebook, or None if the latent is continuous.
    """

    latent: Tensor
    latent_dist: LatentDistribution
    indices: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Result of `Tokenizer.decode`.

    Attributes:
        sample: (B, 3, H, W), ImageNet-normalised, unclamped.
    """

    sample: Tensor
