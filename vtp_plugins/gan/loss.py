"""Adversarial losses and regularisers over logits (B, L), large for images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def critic_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss, a scalar.

    Args:
        kind: ``hinge``, ``non_saturating`` (both halved, as in LDM's code) or ``relativistic``.
        real: Logits of images, (B, L).
        fake: Logits of their reconstructions, (B, L).
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    if kind == "non_saturating":
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    raise ValueError(f"unknown adversarial loss {kind!r}")


def generator_loss(kind: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """The decoder's loss, a scalar.

    Args:
        kind: As in `critic_loss`.
        fake: Logits of reconstructions, (B, L).
        real: Logits of their images, which ``relativistic`` compares them with.
    """
    if kind == "hinge":
        return -fake.mean()
    if kind == "non_saturating":
        return F.softplus(-fake).mean()
    if kind == "relativistic" and real is not None:
        return F.softplus(real - fake).mean()
    raise ValueError(f"unknown adversarial loss {kind!r}, or logits of images are missing")


def gradient_penalty(logits: Tensor, image: Tensor) -> Tensor:
    """Mean over rows of |gradient of the row's mean logit at its image|^2, a scalar; differentiable.

    Args:
        logits: (B, L), made from `image`.
        image: (B, 3, H, W) that requires a gradient.
    """
    (slope,) = torch.autograd.grad(logits.mean(1).sum(), image, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def lecam(real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
    """LeCAM: pulls logits towards the moving average of the other class (Tseng et al. 2021, eq. 5).

    Args:
        real: Logits of images, (B, L).
        fake: Logits of reconstructions, (B, L).
        real_mean: Moving average of the logits of images, no gradient.
        fake_mean: The same of reconstructions.
    """
    return F.relu(real - fake_mean).square().mean() + F.relu(real_mean - fake).square().mean()


def rightly_judged(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Number of right predictions of 2 * B * L; a pair in the right order counts as two."""
    if kind == "relativistic":
        return 2 * (real > fake).sum()
    return (real > 0).sum() + (fake < 0).sum()
