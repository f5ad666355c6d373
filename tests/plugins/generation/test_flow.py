"""One step of flow matching against a plain formula in float64, shift, times, guidance; conformance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from tests.plugins.generation.plain_dit import transformer
from vtp_core.errors import DataError, UsageError
from vtp_core.features import Tally
from vtp_core.parameters import Dims
from vtp_core.testing import FakeStep, check_objective, drawn_batch
from vtp_plugins.generation.config import GenerationConfig, SamplingConfig, TransformerConfig
from vtp_plugins.generation.loss import default_shift, effective_shift, lognormal_times, shifted
from vtp_plugins.generation.network import LightningDit
from vtp_plugins.generation.objective import Generation

DIMS = Dims(width=16, patch=8, depth=2, has_cls=True, channels=3)
SMALL = {"width": 16, "depth": 2, "heads": 2, "patch": 2, "qk_norm": True}
TABLE: dict[str, Any] = {"use": "generation", "view": "main", "classes": 10, "transformer": SMALL}


def drawn(objective: Generation) -> None:
    """Draws every parameter: at first, gates and the last layer are zero, and most gradients with them."""
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype), alpha=0.2)
        objective.generator.mean.copy_(torch.tensor([0.1, -0.4, 2.0]))
        objective.generator.deviation.copy_(torch.tensor([0.5, 1.5, 3.0]))


@pytest.mark.parametrize(
    "options",
    [
        {"lognorm_mu": -0.5, "lognorm_sigma": 1.25, "shift": 2.5},
        {"prediction": "x", "cosine": 0.3, "times": "uniform"},
    ],
)
def test_a_step_is_the_plain_formula(options: dict[str, Any]) -> None:
    config = GenerationConfig(**TABLE, **options, drop_class=0.4)
    objective = Generation(config, DIMS).double()
    drawn(objective)
    batch = drawn_batch(config.views()["main"], rows=5, dims=DIMS, dtype=torch.float64)
    step = FakeStep({"main": replace(batch, crops={})}, objective, dims=DIMS)
    losses = objective(step)
    step.backward(losses)

    again = FakeStep({"main": replace(batch, crops={})}, objective, dims=DIMS)
    z, label = batch.latent, batch.label
    assert z is not None and label is not None
    noise, normal = again.randn(*z.shape).double(), again.randn(5).double()
    hidden = again.rand(5) < 0.4
    assert 0 < hidden.sum() < 5
    own = {
        name.removeprefix("generator.network."): value.detach().clone().requires_grad_()
        for name, value in objective.named_parameters()
    }
    x = (z - torch.tensor([0.1, -0.4, 2.0]).view(3, 1, 1)) / torch.tensor([0.5, 1.5, 3.0]).view(3, 1, 1)
    odds = torch.exp(config.lognorm_mu + config.lognorm_sigma * normal) / (config.shift or 1.0)
    if config.times == "uniform":
        share = torch.from_numpy(norm.cdf(normal.numpy()))
        odds = share / (1 - share) / (config.shift or 1.0)
    t = odds / (1 + odds)
    at = t.view(5, 1, 1, 1)
    point = at * x + (1 - at) * noise
    out = transformer(own, point, t, torch.where(hidden, 10, label), patch=2, heads=2)
    target = x - noise
    if config.prediction == "x":
        divisor = torch.maximum(1 - at, torch.tensor(0.05))
        out, target = (out - point) / divisor, (x - point) / divisor
    squared = ((out - target) ** 2).sum() / out.numel()
    products = (out * target).sum(1) / (out * out).sum(1).sqrt() / (target * target).sum(1).sqrt()
    cosine = (1 - products).sum() / products.numel()
    (squared + config.cosine * cosine).backward()

    assert losses.terms["velocity"].item() == pytest.approx(squared.item(), rel=1e-10)
    assert losses.terms["cosine"].item() == pytest.approx(config.cosine * cosine.item(), rel=1e-9)
    found = {n.removeprefix("generator.network."): p.grad for n, p in objective.named_parameters()}
    assert found.keys() == own.keys()
    for name, parameter in own.items():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-7, atol=1e-10, msg=name)


def test_before_the_first_update_the_loss_is_that_of_chance() -> None:
    config = GenerationConfig(**TABLE, cosine=0.5, statistics_rows=64)
    objective = Generation(config, DIMS)
    batch = replace(drawn_batch(config.views()["main"], rows=64, dims=DIMS), crops={})
    step = FakeStep({"main": batch}, objective, dims=DIMS)
    objective.calibrate(objective.observe(step))
    losses = objective(step)
    assert {name: term.item() for name, term in losses.terms.items()} == {
        name: pytest.approx(value, rel=0.05) for name, value in config.chance({}, {}).items()
    }


def test_a_frozen_tokenizer_runs_without_a_graph() -> None:
    config = GenerationConfig(**TABLE)
    objective = Generation(config, DIMS)
    step = FakeStep({"main": drawn_batch(config.views()["main"], rows=4, dims=DIMS)}, objective, dims=DIMS)
    networks, recorded = step._forwards.networks, []
    for part in (networks.encoder, networks.bottleneck):
        part.requires_grad_(False)
        part.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    networks.decoder.register_forward_hook(lambda *_: pytest.fail("the decoder ran"))
    step.backward(objective(step))
    assert recorded == [False, False]
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_times_are_shifted_logit_normal() -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = lognormal_times(torch.from_numpy(norm.ppf(p.numpy())), -0.75, 0.8, 3.0)
    # The quantiles of a logit-normal whose mean the shift moves by its logarithm.
    logit = -0.75 - math.log(3.0) + 0.8 * norm.ppf(p.numpy())
    torch.testing.assert_close(t, torch.from_numpy(1 / (1 + numpy_exp(-logit))), rtol=1e-12, atol=0)
    assert effective_shift(3.0, -0.75) == pytest.approx(3.0 * math.exp(0.75))


def numpy_exp(x: Any) -> Any:
    return torch.from_numpy(x).exp().numpy()


def test_shift() -> None:
    # RAE's formula for the noise level 1 - t, and its figures: DINOv2-B 6.93, DINO-Tok 7.21.
    noise = torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)
    expected = 7.0 * noise / (1 + (7.0 - 1) * noise)
    torch.testing.assert_close(1 - shifted(1 - noise, 7.0), expected)
    assert default_shift(768 * 256) == pytest.approx(6.93, abs=0.005)
    assert default_shift(832 * 256) == pytest.approx(7.21, abs=0.005)
    assert default_shift(64) == 1.0


def calibrated(objective: Generation, grid: tuple[int, int] = (4, 4)) -> Generation:
    objective.generator.grid.copy_(torch.tensor(grid))
    return objective


def test_guidance_acts_on_all_channels_within_its_interval() -> None:
    objective = Generation(GenerationConfig(**TABLE), DIMS).double()
    drawn(objective)
    flow = objective.generator.eval()
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t, label = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64), torch.tensor([1, 2, 3, 4])
    with torch.no_grad():
        given, none = flow(x, t, label), flow(x, t, torch.full((4,), 10))
        found = flow.guided(x, t, label, 2.5, (0.3, 0.6))
    expected = given.clone()
    expected[1:3] = none[1:3] + 2.5 * (given[1:3] - none[1:3])
    torch.testing.assert_close(found, expected)
    assert all((expected - given)[1, channel].abs().max() > 1e-3 for channel in range(3))


def test_statistics_are_those_of_all_rows() -> None:
    config = GenerationConfig(**TABLE)
    objective = Generation(config, DIMS)
    need = config.views()["main"]
    batches = [
        replace(
            drawn_batch(need, rows=6, dims=DIMS, index=i), crops={}, label=torch.tensor([7, 2, 2, -1, 9, 2])
        )
        for i in range(3)
    ]
    batches = [replace(b, latent=b.latent * 3 + 100) for b in batches if b.latent is not None]
    tallies = [objective.observe(FakeStep({"main": batch}, objective, dims=DIMS)) for batch in batches]
    joined = {name: torch.stack([t.sums[name] for t in tallies]).sum(0) for name in tallies[0].sums}
    objective.calibrate(Tally(sums=joined))
    z = torch.cat([batch.latent for batch in batches if batch.latent is not None]).double()
    flow = objective.generator
    torch.testing.assert_close(flow.mean.double(), z.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(flow.deviation.double(), z.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    assert flow.grid.tolist() == [4, 4]
    assert (flow.frequency * 15).tolist() == pytest.approx([0, 0, 9, 0, 0, 0, 0, 3, 0, 3])
    torch.testing.assert_close(flow.restore(flow.normalise(z)), z)


def test_warnings() -> None:
    def lines(**options: Any) -> list[str]:
        return list(calibrated(Generation(GenerationConfig(**{**TABLE, **options}), DIMS)).warnings())

    assert lines() == []
    (narrow,) = lines(transformer={"width": 8, "depth": 1, "heads": 2, "patch": 2})
    assert "is 8 wide, narrower than a latent token of 12 numbers" in narrow
    assert not lines(
        transformer={"width": 8, "depth": 1, "heads": 2, "patch": 2, "head": {"width": 16, "heads": 2}}
    )
    head = {"width": 8, "heads": 2}  # the last layer reads the head alone
    (narrow,) = lines(transformer={"width": 64, "depth": 1, "heads": 2, "patch": 2, "head": head})
    assert "is 8 wide, narrower than a latent token of 12 numbers" in narrow
    (off,) = lines(shift=5.0)
    assert "amount to a shift of 5; usual is 1," in off
    assert not lines(shift=5.0, lognorm_mu=math.log(5.0))


def test_labels_and_grids_that_do_not_fit_are_refused() -> None:
    config = GenerationConfig(**{**TABLE, "classes": 3})
    objective = calibrated(Generation(config, DIMS))
    batch = replace(drawn_batch(config.views()["main"], rows=2, dims=DIMS), crops={})
    with pytest.raises(DataError, match="has a label 3, the objective generation 3 classes, 0 to 2"):
        objective(FakeStep({"main": replace(batch, label=torch.tensor([0, 3]))}, objective, dims=DIMS))
    calibrated(objective, (8, 8))
    with pytest.raises(DataError, match="of latents of 8 x 8, and view main has 4 x 4"):
        objective(FakeStep({"main": replace(batch, label=torch.tensor([0, 2]))}, objective, dims=DIMS))


def test_a_grid_that_no_patch_divides_is_refused() -> None:
    network = LightningDit(TransformerConfig(**SMALL), channels=3)
    with pytest.raises(ValueError, match="a latent of 4 x 5 is no multiple of patch 2"):
        network(torch.zeros(1, 3, 4, 5), torch.zeros(1))


def test_tables_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="width 30 / heads 4 must be a multiple of 4"):
        TransformerConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="interval must be ascending"):
        GenerationConfig(**TABLE, sampling={"interval": [0.5, 0.5]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"classes": 10},
        {"prediction": "x", "transformer": {**SMALL, "head": {"width": 24, "depth": 1, "heads": 2}}},
    ],
)
def test_conformance(options: dict[str, Any]) -> None:
    small = {**SMALL, "depth": 1}
    table = {"use": "generation", "view": "main", "transformer": small}
    check_objective(Generation, GenerationConfig(**{**table, **options}), processes="classes" in options)


def sample(objective: Generation, indices: list[int], seed: int = 5, **settings: Any) -> Tensor:
    flow = objective.generator
    return flow.generate(torch.tensor(indices), seed, (3, 4, 4), settings=flow.with_settings(settings))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dopri5"])
def test_a_sample_depends_on_its_index_and_seed_alone(sampler: str) -> None:
    objective = calibrated(Generation(GenerationConfig(**TABLE), DIMS).double())
    drawn(objective)
    how = {"rtol": 1e-2, "atol": 1e-2} if sampler == "dopri5" else {"steps": 3}
    options: dict[str, Any] = {"sampler": sampler, "guidance": 1.5, **how}
    whole = sample(objective, [0, 1, 2, 3, 4], **options)
    part = torch.cat([sample(objective, [4], **options), sample(objective, [2, 0], **options)])
    torch.testing.assert_close(part, whole[[4, 2, 0]], rtol=1e-9, atol=1e-9)
    other = sample(objective, [0, 1], seed=6, **options)
    assert (other - whole[:2]).abs().flatten(1).amax(1).min() > 0.1
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_weights_in_half_precision_make_nearly_the_same() -> None:
    objective = calibrated(Generation(GenerationConfig(**TABLE), DIMS))
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05
            )
    whole = sample(objective, [0, 1, 2], steps=4)
    half = sample(objective.to(torch.bfloat16), [0, 1, 2], steps=4)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)


def test_classes_are_drawn_as_often_as_in_the_data_or_alike() -> None:
    flow = Generation(GenerationConfig(**TABLE), DIMS).generator
    flow.frequency.copy_(torch.tensor([0.0, 0.5, 0, 0, 0.2, 0, 0, 0.3, 0, 0]))
    seeds = torch.arange(20_000) * 7919
    data = torch.bincount(flow.draw_classes(seeds, "data"), minlength=10) / 20_000
    alike = torch.bincount(flow.draw_classes(seeds, "uniform"), minlength=10) / 20_000
    torch.testing.assert_close(data, flow.frequency, rtol=0, atol=0.015)
    assert data[flow.frequency == 0].sum() == 0
    torch.testing.assert_close(alike, torch.full((10,), 0.1), rtol=0, atol=0.01)


def test_bad_requests_are_refused() -> None:
    objective = Generation(GenerationConfig(**{**TABLE, "classes": 0}), DIMS)
    with pytest.raises(UsageError, match="no statistics of latents"):
        sample(objective, [0])
    calibrated(objective)
    with pytest.raises(UsageError, match="guidance needs classes"):
        sample(objective, [0], guidance=2.0)
    with pytest.raises(UsageError, match="trained on latents of 3 x 4 x 4, asked for 3 x 8 x 8"):
        objective.generator.generate(torch.tensor([0]), 0, (3, 8, 8))
    with pytest.raises(UsageError, match="no setting 'step'; there are sampler, steps"):
        sample(objective, [0], step=3)
    with pytest.raises(UsageError, match="steps: Input should be greater than 0"):
        sample(objective, [0], steps=0)


def test_every_setting_changes_samples_or_is_refused() -> None:
    """What one sampler reads and another does not is found by sampling, not by the table of keys."""
    objective = calibrated(Generation(GenerationConfig(**TABLE), DIMS).double())
    drawn(objective)
    coarse = {"euler": {"steps": 2}, "heun": {"steps": 2}, "dopri5": {"rtol": 0.5, "atol": 0.5}}
    changes = {"steps": 3, "shift": 5.0, "rtol": 1e-3, "atol": 1e-3, "interval": [0.0, 0.5], "guidance": 3.0}
    refused = []
    for sampler, how in coarse.items():
        plain = sample(objective, [0], sampler=sampler, **how)
        for key, value in changes.items():
            settings = SamplingConfig(**{"sampler": sampler, **how, key: value})
            other = objective.generator.generate(torch.tensor([0]), 5, (3, 4, 4), settings=settings)
            if not torch.equal(other, plain):
                assert torch.equal(sample(objective, [0], **{"sampler": sampler, **how, key: value}), other)
                continue
            with pytest.raises(UsageError, match=f"generate: {key} has no effect .*; leave it out"):
                sample(objective, [0], sampler=sampler, **{**how, key: value})
            refused.append((sampler, key))
    gone = [("euler", "rtol"), ("euler", "atol"), ("heun", "rtol"), ("heun", "atol")]
    gone += [("dopri5", "steps"), ("dopri5", "shift")]
    assert set(refused) == {*gone, *((sampler, "interval") for sampler in coarse)}


def test_defaults_of_another_sampler_are_not_mentioned() -> None:
    """A recipe's own values are defaults of calls, which may choose another sampler."""
    flow = Generation(GenerationConfig(**TABLE, sampling={"sampler": "dopri5", "steps": 7}), DIMS).generator
    assert flow.with_settings({"sampler": "euler"}).steps == 7
    assert flow.with_settings({"rtol": 1e-2}).steps == 7
