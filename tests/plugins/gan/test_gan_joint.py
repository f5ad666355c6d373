"""The adversarial objective in the real joint step, against plain float64 formulas and on two ranks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.core.training.rank_bodies import Capture
from tests.core.training.toy import batches
from tests.plugins.gan.gan_runs import AUGMENTED, BLOCKS, HEADS, PATCHES, Training, build, train_cases
from vtp_core.pixels import SIGNED, convert
from vtp_core.testing.ranks import run_processes
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.state import model_state
from vtp_plugins.gan.objective import Gan

CASES: list[dict[str, Any]] = [
    {"critic": AUGMENTED, "adaptive": "last_layer", "lecam": 0.1, "alarm_accuracy": 0.51, "alarm_steps": 1},
    {"critic": BLOCKS, "loss": "relativistic", "r1": 1.0, "r2": 0.5, "penalty_every": 2, "ramp": 3},
    {"critic": HEADS, "loss": "non_saturating", "adaptive": "none", "round_reconstructions": True},
    {"critic": PATCHES, "warmup": 1, "start": 1},
]


def _gan(networks: Networks) -> Gan:
    gan = networks.objectives["gan"]
    assert isinstance(gan, Gan)
    return gan


@pytest.mark.parametrize("adaptive", ["none", "output", "last_layer"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_decoder_s_gradient_is_that_of_one_plain_backward(adaptive: str, chunk: int | None) -> None:
    ours = build(critic=PATCHES, adaptive=adaptive, eps=1e-6)
    capture = Capture(ours, World())
    options = ForwardOptions(total=10, microbatch_rows=chunk)
    result = JointStep(ours, World(), options, update=capture, critics=capture)(batches(0), 0)

    plain = build(critic=PATCHES)
    target = batches(0)["rec"].image
    (tokens,) = plain.encoder([target[:, None]], [None])
    latent = plain.bottleneck.project(tokens.patches[:, 0])  # type: ignore[operator]
    image = plain.decoder(latent.transpose(1, 2).unflatten(2, tokens.grid))
    l1 = (image - target).abs().mean()
    adversarial = -_gan(plain).critic(image[:4]).mean()  # the toy decoder's images are in [-1, 1]
    weight = torch.tensor(1.0, dtype=torch.float64)
    if adaptive != "none":
        last: Tensor = plain.decoder.last_layer().weight  # type: ignore[assignment]
        norms = []
        for loss in (l1, adversarial):
            (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)
            gradient[4:] = 0  # the weight compares what reaches the objective's own rows
            if adaptive == "last_layer":
                (gradient,) = torch.autograd.grad(image, last, gradient, retain_graph=True)
            norms.append(gradient.norm())
        weight = norms[0] / (norms[1] + 1e-6)
    (l1 + 0.5 * weight.detach() * adversarial).backward()

    assert result.report["gan/d_weight"] == pytest.approx(weight.item(), rel=1e-10)
    assert result.terms["gan/adversarial"] == pytest.approx((weight * adversarial).item(), rel=1e-10)
    compared = 0
    for owner in ("encoder", "bottleneck", "decoder"):
        for name, parameter in plain.parameters_of(owner).items():
            if parameter.grad is not None:
                torch.testing.assert_close(capture.found[name], parameter.grad, rtol=1e-9, atol=1e-13)
                compared += 1
    assert compared > 20


def test_the_critic_s_gradient_is_that_of_one_plain_backward() -> None:
    fields: dict[str, Any] = {"critic": BLOCKS, "r1": 3.0, "r2": 2.0, "lecam": 0.3, "penalty_every": 4}
    ours = build(**fields)
    _gan(ours).get_buffer("logit_means").copy_(torch.tensor([0.4, -0.2], dtype=torch.float64))
    capture = Capture(ours, World())
    result = JointStep(ours, World(), ForwardOptions(total=10), update=capture, critics=capture)(
        batches(0), 0
    )

    plain = build(**fields)
    critic = _gan(plain).critic
    target = batches(0)["rec"].image
    with torch.no_grad():
        (tokens,) = plain.encoder([target[:, None]], [None])
        latent = plain.bottleneck.project(tokens.patches[:, 0])  # type: ignore[operator]
        image = plain.decoder(latent.transpose(1, 2).unflatten(2, tokens.grid))
    real = convert(target[:4], "imagenet", SIGNED).requires_grad_()
    fake = image[:4].clone().requires_grad_()
    scores = critic(real)[:, 0], critic(fake)[:, 0]
    hinge = (F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()) / 2
    penalties = []
    for score, pixels in zip(scores, (real, fake), strict=True):
        (slope,) = torch.autograd.grad(score.sum(), pixels, create_graph=True)
        penalties.append(slope.square().sum() / 4)
    lecam = F.relu(scores[0] + 0.2).square().mean() + F.relu(0.4 - scores[1]).square().mean()
    (hinge + 3.0 / 2 * 4 * penalties[0] + 2.0 / 2 * 4 * penalties[1] + 0.3 * lecam).backward()

    expected = {"critic": hinge, "r1": 6 * penalties[0], "r2": 4 * penalties[1], "lecam": 0.3 * lecam}
    assert {name for name in result.terms if name.startswith("gan.critic/")} == {
        f"gan.critic/{name}" for name in expected
    }
    for name, value in expected.items():
        assert result.terms[f"gan.critic/{name}"] == pytest.approx(value.item(), rel=1e-10)
    for name, parameter in plain.parameters_of("gan.critic").items():
        assert parameter.grad is not None
        torch.testing.assert_close(capture.found[name], parameter.grad, rtol=1e-9, atol=1e-13)
    shown = result.report
    assert shown["gan.critic/logits_real"] == pytest.approx(scores[0].mean().item())
    right = (scores[0] > 0).sum() + (scores[1] < 0).sum()
    assert shown["gan.critic/accuracy"] == pytest.approx(right.item() / 8)


def test_penalties_fall_due_every_so_many_steps() -> None:
    training = Training(build(critic=PATCHES, r1=1.0, penalty_every=2), World())
    due = ["gan.critic/r1" in training.step(index).terms for index in range(4)]
    assert due == [True, False, True, False]


def test_while_the_critic_warms_up_the_decoder_moves_as_without_it() -> None:
    alone = build(critic=PATCHES)
    del alone.objectives["gan"]  # type: ignore[attr-defined]
    expected = Capture(alone, World())
    JointStep(alone, World(), ForwardOptions(total=10), update=expected)(batches(1), 1)
    ours = build(critic=PATCHES, start=1, warmup=2, ramp=2)
    capture = Capture(ours, World())
    step = JointStep(ours, World(), ForwardOptions(total=10), update=capture, critics=capture)
    result = step(batches(1), 1)
    assert result.report["gan/exposure"] == 0 and "gan.critic/critic" in result.terms
    for name, gradient in expected.found.items():
        torch.testing.assert_close(capture.found[name], gradient, rtol=0, atol=0)
    weights = [value for name, value in capture.found.items() if ".critic." in name and value.ndim > 1]
    assert weights and all(value.abs().max() > 0 for value in weights)
    assert [_gan(ours).config.exposure(index) for index in range(7)] == [0, 0, 0, 0.5, 1, 1, 1]
    assert step(batches(0), 0).report == {}  # before `start` there is nothing at all


def test_a_frozen_feature_network_is_neither_trained_nor_saved() -> None:
    networks = build(critic=HEADS)
    trunk = _gan(networks).trunk
    assert trunk is not None
    names = [*model_state(networks), *networks.parameters_of("gan.critic"), *networks.parameters_of("gan")]
    assert not [name for name in names if "trunk" in name]
    assert any(name.startswith("objectives.gan.critic.heads.0.") for name in names)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    training = Training(networks, World())
    assert training.step(0).skipped is None
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_critic_that_wins_outright_is_finite_and_raises_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    networks = build(critic=PATCHES, alarm_steps=3, limit=50.0)
    training = Training(networks, World(), lr=0.0, critic_lr=3e-2, steps=40)
    with caplog.at_level(logging.WARNING):
        results = [training.step(index) for index in range(40)]
    assert all(result.skipped is None for result in results)
    assert results[-1].report["gan.critic/accuracy"] == 1.0
    assert all(0 < result.report["gan/d_weight"] <= 50 for result in results)
    alarms = [result.report["gan.critic/alarm"] for result in results]
    assert alarms[0] == 0 and alarms[-1] == 1 and sorted(alarms) == alarms
    (warning,) = [
        record.getMessage() for record in caplog.records if "the critic was right in over" in record.message
    ]
    assert "lower critic_optimizer.lr" in warning.lower()


@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "relativistic"])
@pytest.mark.parametrize("scale", [1e8, 0.0])
def test_a_critic_of_huge_or_no_slope_gives_a_bounded_weight(loss: str, scale: float) -> None:
    networks = build(critic=PATCHES, loss=loss)
    with torch.no_grad():
        _gan(networks).critic.layers[-1].weight.mul_(scale)  # type: ignore[operator, union-attr, index]
    result = Training(networks, World()).step(0)
    assert result.skipped is None and 0 <= result.report["gan/d_weight"] <= 1e4
    norm = result.gradients["grad_norm/decoder"]
    assert 0 < norm < 10


def test_lecam_s_averages_move_after_the_critic_only() -> None:
    networks = build(critic=PATCHES, lecam=0.1, lecam_momentum=0.75)
    training, gan = Training(networks, World()), _gan(networks)
    expected = torch.zeros(2, dtype=torch.float64)
    for index in range(3):
        report = training.step(index).report
        now = torch.tensor([report["gan.critic/logits_real"], report["gan.critic/logits_fake"]])
        expected = 0.75 * expected + 0.25 * now.double()
        torch.testing.assert_close(gan.get_buffer("logit_means"), expected)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_train_as_one() -> None:
    single = train_cases(World(), CASES)
    first, second = run_processes(2, train_cases, CASES)
    assert single.keys() == first.keys() == second.keys()
    compared = _distance(first, second)
    assert max(compared.values()) == 0, max(compared, key=compared.__getitem__)
    compared = _distance(single, first)
    assert max(compared.values()) < 1e-10, max(compared, key=compared.__getitem__)
    assert any(name.endswith("critic.heads.0.second.0.left") for name in single)
    assert single["1|0|gan/exposure"] < single["1|2|gan/exposure"] == 1


@pytest.mark.distributed
@pytest.mark.slow
def test_batch_norm_depends_on_the_ranks_as_its_documentation_says() -> None:
    cases = [{"critic": PATCHES.model_copy(update={"norm": "batch"})}]
    compared = _distance(train_cases(World(), cases), run_processes(2, train_cases, cases)[0])
    assert max(compared.values()) > 1e-4


def _distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: (value.double() - right[name].double()).abs().max().item()
        for name, value in left.items()
        if value.numel()
    }
