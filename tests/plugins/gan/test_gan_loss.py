"""Adversarial losses against plain float64 formulas, and gradient penalties against closed forms."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vtp_plugins.gan.loss import critic_loss, generator_loss, gradient_penalty, lecam, rightly_judged

KINDS = ("hinge", "non_saturating", "relativistic")


def _logits(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(3, 5, generator=rng, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def _softplus(x: numpy.ndarray) -> numpy.ndarray:
    return numpy.log(1 + numpy.exp(x))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_losses_equal_their_formulas(seed: int) -> None:
    real, fake = _logits(seed)
    r, f = real.numpy(), fake.numpy()
    expected = {
        "hinge": (
            0.5 * (numpy.maximum(0, 1 - r).mean() + numpy.maximum(0, 1 + f).mean()),
            -f.mean(),
        ),
        "non_saturating": (
            -0.5
            * (numpy.log(1 / (1 + numpy.exp(-r))).mean() + numpy.log(1 - 1 / (1 + numpy.exp(-f))).mean()),
            -numpy.log(1 / (1 + numpy.exp(-f))).mean(),
        ),
        "relativistic": (_softplus(-(r - f)).mean(), _softplus(-(f - r)).mean()),
    }
    for kind, (critic, generator) in expected.items():
        assert critic_loss(kind, real, fake).item() == pytest.approx(
            critic, rel=1e-8
        )  # torch rounds above 20
        assert generator_loss(kind, fake, real).item() == pytest.approx(generator, rel=1e-8)
    means = torch.tensor([0.7, -0.4], dtype=torch.float64)
    plain = (numpy.maximum(0, r + 0.4) ** 2).mean() + (numpy.maximum(0, 0.7 - f) ** 2).mean()
    assert lecam(real, fake, means[0], means[1]).item() == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_gains_where_the_critic_loses(kind: str) -> None:
    real, fake = _logits(0)
    fake.requires_grad_()
    (for_critic,) = torch.autograd.grad(critic_loss(kind, real, fake), fake)
    (for_decoder,) = torch.autograd.grad(generator_loss(kind, fake, real), fake)
    assert (for_decoder < 0).all() and (for_critic >= 0).all() and for_critic.any()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_a_critic_that_wins_outright_are_finite(kind: str) -> None:
    real, fake = torch.full((2, 3), 1e6), torch.full((2, 3), -1e6, requires_grad=True)
    loss = generator_loss(kind, fake, real)
    (slope,) = torch.autograd.grad(loss, fake)
    assert torch.isfinite(loss) and torch.isfinite(slope).all()
    assert torch.isfinite(critic_loss(kind, real, fake))


def test_an_unknown_loss_is_refused() -> None:
    real, fake = _logits(0)
    for call in (
        lambda: critic_loss("wasserstein", real, fake),
        lambda: generator_loss("relativistic", fake),
    ):
        with pytest.raises(ValueError, match="unknown adversarial loss"):
            call()


def test_right_judgements_are_counted() -> None:
    real, fake = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, -2.0]])
    assert rightly_judged("hinge", real, fake).item() == 3
    assert rightly_judged("relativistic", real, fake).item() == 4


def test_the_penalty_of_a_linear_critic_is_its_weights_squared_norm() -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, generator=rng, dtype=torch.float64, requires_grad=True)
    image = torch.randn(5, 3, 2, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(image.flatten(1) @ weight.T, image)
    assert penalty.item() == pytest.approx(weight.mean(0).square().sum().item(), rel=1e-12)
    (slope,) = torch.autograd.grad(penalty, weight)
    expected = (2 * weight.mean(0) / 4).expand_as(weight)
    torch.testing.assert_close(slope, expected.detach())


def test_the_penalty_s_gradient_is_that_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 6, 6, generator=rng, dtype=torch.float64)

    def penalty(kernel: Tensor) -> Tensor:
        pixels = image.clone().requires_grad_()
        hidden = torch.tanh(F.conv2d(pixels, kernel, stride=2))
        return gradient_penalty(hidden.square().flatten(1), pixels)

    kernel = torch.randn(2, 3, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (kernel,))
