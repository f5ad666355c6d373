"""VA-VAE's alignment against plain formulas; its adaptive weight against the gradients of a decoder."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.features import Latent, Tokens
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.testing.networks import TinyEncoder
from vtp_plugins.align.config import AlignConfig
from vtp_plugins.align.loss import marginal_cosine, marginal_distances
from vtp_plugins.align.objective import Align

TABLE: dict[str, Any] = {"use": "align", "view": "main", "network": "dino", "width": 16}


@pytest.mark.parametrize("options", [{"adaptive": False}, {"adaptive": False, "layer": 1, "rows": 4}])
def test_conformance(options: dict[str, Any]) -> None:
    config = AlignConfig(**TABLE, cosine_margin=0.1, distance_margin=0.01, **options)
    check_objective(Align, config, frozen={"dino": TinyEncoder()})


def _cosine(a: numpy.ndarray, b: numpy.ndarray) -> float:
    return float((a * b).sum() / numpy.sqrt((a**2).sum() * (b**2).sum()))


def test_against_plain_numpy() -> None:
    torch.manual_seed(0)
    z, f = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    x, y = z.numpy(), f.numpy()
    m1, m2 = 0.3, 0.2
    plain = [max(0.0, 1 - m1 - _cosine(x[i], y[i])) for i in range(5)]
    assert min(plain) == 0 < max(plain)
    torch.testing.assert_close(marginal_cosine(z, f, m1), torch.tensor(plain, dtype=torch.float64))
    pairs = [
        max(0.0, abs(_cosine(x[i], x[j]) - _cosine(y[i], y[j])) - m2) for i in range(5) for j in range(5)
    ]
    expected = torch.tensor(sum(pairs) / 25, dtype=torch.float64)
    torch.testing.assert_close(marginal_distances(z, f, m2), expected)


def _step(objective: Align, latent: Tensor, others: float | None = None) -> FakeStep:
    """A step that serves a latent map's tokens (B, 1, 16, d)."""
    batch = drawn_batch(objective.views()["main"], rows=len(latent), counts={"global": 1})
    served = Latent(crops={"global": Tokens(patches=latent, grid=(4, 4))})
    more: dict[str, Any] = {} if others is None else {"others": others}
    frozen = {"dino": TinyEncoder()}
    return FakeStep({"main": batch}, objective, latents={"main": served}, frozen=frozen, **more)


def test_the_terms_compare_projected_latents_with_the_frozen_output() -> None:
    torch.manual_seed(1)
    objective = Align(AlignConfig(**TABLE, adaptive=False, cosine=2.0, distance=3.0), TINY_DIMS)
    latent = torch.randn(3, 1, 16, 4)
    step = _step(objective, latent)
    losses = objective(step)
    target = step.frozen_features("dino", "main")["global"].patches
    projected = latent @ objective.project.weight.detach().T
    cosine = 2 * marginal_cosine(projected, target, 0.5).mean()
    distance = 3 * marginal_distances(projected, target, 0.25).mean()
    torch.testing.assert_close(losses.terms["cosine"].detach(), cosine)
    torch.testing.assert_close(losses.terms["distance"].detach(), distance)


def test_the_adaptive_weight_equals_the_gradients_at_the_latent() -> None:
    torch.manual_seed(2)
    objective = Align(AlignConfig(**TABLE), TINY_DIMS)
    latent = torch.randn(3, 1, 16, 4)
    step = _step(objective, latent, others=7.0)
    losses = objective(step)
    leaf = latent.clone().requires_grad_()
    target = step.frozen_features("dino", "main")["global"].patches
    projected = leaf @ objective.project.weight.T
    loss = marginal_cosine(projected, target, 0.5).mean() + marginal_distances(projected, target, 0.25).mean()
    at_latent, at_weight = torch.autograd.grad(loss, [leaf, objective.project.weight])
    weight = 7.0 / (at_latent.norm() + 1e-4)
    torch.testing.assert_close(losses.report["weight"], weight, rtol=1e-4, atol=1e-6)
    step.backward(losses)
    assert objective.project.weight.grad is not None
    torch.testing.assert_close(objective.project.weight.grad, weight * at_weight, rtol=1e-4, atol=1e-6)


def test_another_grid_or_width_of_the_frozen_network_is_one_clear_error() -> None:
    objective = Align(AlignConfig(**{**TABLE, "width": 8}), TINY_DIMS)
    with pytest.raises(UsageError, match=r"tokens \(2, 1, 16, 16\) .* not \(2, 1, 16, 8\)"):
        objective(_step(objective, torch.randn(2, 1, 16, 4)))
