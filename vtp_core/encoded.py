"""Results of a tokenizer's `encode` and `decode`, with diffusers' names, and the check that they are finite.

Shapes: B images, d latent channels, h x w positions, Q codebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from vtp_core.errors import NumericError

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


# So that `torch.export` and `torch.compile` see the tensors inside.
for _class in (LatentDistribution, Encoded, Decoded):
    _pytree.register_dataclass(_class)


def require_finite(caller: str, values: Mapping[str, Tensor | None], model: nn.Module | None = None) -> None:
    """Refuses NaN and infinite values; one synchronisation with the device, none while tracing.

    Args:
        caller: What computed them, for the message.
        values: Name -> tensor with the batch as its first dimension, in the order of computation.
        model: Where to look for weights that are not finite.

    Raises:
        NumericError: Names the first such tensor and its row.
    """
    if torch.compiler.is_compiling():
        return
    known = {
        name: value.detach() for name, value in values.items() if value is not None and not value.is_meta
    }
    if not known or bool(torch.stack([value.isfinite().all() for value in known.values()]).all()):
        return
    name, value = next((name, value) for name, value in known.items() if not value.isfinite().all())
    row = int((~value.reshape(len(value), -1).isfinite().all(1)).nonzero()[0, 0])
    advice = ""
    if model is not None:
        weights = chain(model.named_parameters(), model.named_buffers())
        broken = next((key for key, weight in weights if not weight.isfinite().all()), None)
        advice = "; check the weights" if broken is None else f"; its weight {broken} is not finite"
    raise NumericError(f"{caller}: {name} not finite (row {row} of {len(value)}){advice}", row=row)
