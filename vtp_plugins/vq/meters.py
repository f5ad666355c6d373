"""Meters of a codebook: use in a window, perplexity, entropy, age of codes, and an alarm on collapse."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


class Meters(nn.Module):
    """Counts how often codes are used; all numbers are of the last `window` steps.

    Args:
        codes: Codes K.
        window: Steps of the window.
        alarm: Usage below which a warning is logged, at most once a window; 0: never.
        name: Name of the codebook in the warning.
    """

    counts: Tensor
    age: Tensor

    def __init__(self, codes: int, *, window: int = 100, alarm: float = 0.1, name: str = "codebook") -> None:
        super().__init__()
        self.window, self.alarm, self.name = window, alarm, name
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("age", torch.zeros(codes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, counts: Tensor, index: int) -> None:
        """Adds a step's counts (K,), reduced over ranks."""
        self.counts.mul_(1 - 1 / self.window).add_(counts)
        self.age.add_(1).masked_fill_(counts > 0, 0)
        if self.alarm and index >= self.window and index % self.window == 0:
            usage = self.usage().item()  # the only time that the host waits for it
            if usage < self.alarm:
                _log.warning(
                    "%s: %.1f %% of %d codes were used in the last %d steps; initialise from data, turn "
                    "revival on, or quantise fewer dimensions (bottleneck pca_vq)",
                    self.name,
                    100 * usage,
                    len(self.counts),
                    self.window,
                )

    def usage(self) -> Tensor:
        """Fraction of the codes that were used in the window."""
        return (self.age < self.window).logical_and(self.counts > 0).float().mean()

    def report(self) -> dict[str, Tensor]:
        """``usage`` (0 to 1), ``perplexity`` (1 to K), ``entropy`` (bits), ``age`` (mean steps since use)."""
        entropy = entropy_of(self.counts)
        return {
            "usage": self.usage(),
            "perplexity": entropy.exp(),
            "entropy": entropy / math.log(2),
            "age": self.age.float().mean(),
        }


def entropy_of(counts: Tensor) -> Tensor:
    """Entropy of counts (K,) in nats; 0 without any."""
    p = counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
    return -torch.xlogy(p, p).sum()
