"""The `kl` bottleneck against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vtp_core.features import Features, Tokens
from vtp_core.parameters import Dims
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.kl.loss import kl_to_standard_normal

DIMS = Dims(width=12, patch=4, depth=1, has_cls=True)


def features() -> Features:
    def tokens(crops: int, grid: tuple[int, int]) -> Tokens:
        patches = torch.randn(2, crops, grid[0] * grid[1], 12)
        return Tokens(patches=patches, grid=grid, cls=torch.randn(2, crops, 12), layers={0: patches})

    return Features(crops={"global": tokens(2, (2, 3)), "local": tokens(3, (1, 2))})


def bottleneck() -> KlBottleneck:
    built = KlBottleneck(KlConfig(channels=4, weight=0.5), DIMS)
    torch.nn.init.normal_(built.moments.weight, std=0.5)
    return built


def test_divergence_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(2, 3, 5, dtype=torch.float64).unbind()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), expected)


def test_evaluation_takes_the_mean_and_the_term_sums_each_image() -> None:
    built, given = bottleneck().eval(), features()
    latent = built(given)
    sums = []
    for name, tokens in given.crops.items():
        mean, logvar = (tokens.patches @ built.moments.weight.T + built.moments.bias).split(4, dim=-1)
        torch.testing.assert_close(latent[name].patches, mean)
        torch.testing.assert_close(latent.logvar[name], logvar)
        cls = tokens.cls @ built.moments.weight[:4].T + built.moments.bias[:4]
        torch.testing.assert_close(latent[name].cls, cls)
        assert latent[name].grid == tokens.grid
        assert not latent[name].layers
        each = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum((2, 3))
        sums += each.flatten().tolist()
    expected = sum(sums) / len(sums)
    assert len(sums) == 2 * 2 + 2 * 3
    assert latent.aux["kl"].item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert latent.report["kl_nats"].item() == pytest.approx(expected, rel=1e-5)
    assert latent.z.shape == (2, 4, 2, 3)


def test_training_samples_the_named_gaussian() -> None:
    built = bottleneck().train()
    patches = torch.randn(1, 1, 1, 12).expand(20_000, 1, 1, 12)
    given = Features(crops={"global": Tokens(patches=patches, grid=(1, 1))})
    latent = built(given)
    mean = built.eval()(given)["global"].patches[0, 0, 0]
    sample, std = latent["global"].patches[:, 0, 0], (0.5 * latent.logvar["global"][0, 0, 0]).exp()
    assert latent["global"].cls is None
    assert bool(((sample.mean(0) - mean).abs() < 5 * std / 20_000**0.5).all())
    torch.testing.assert_close(sample.std(0), std, rtol=0.04, atol=0)


def test_samples_follow_the_global_seed_only() -> None:
    built, given = bottleneck().train(), features()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(built(given)["global"].patches)
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


def test_log_variance_is_clamped_and_huge_inputs_stay_finite() -> None:
    built = bottleneck().train()
    latent = built(Features(crops={"global": Tokens(patches=1e6 * torch.randn(2, 1, 4, 12), grid=(2, 2))}))
    logvar = latent.logvar["global"]
    assert (logvar.min().item(), logvar.max().item()) == (-30.0, 20.0)
    assert bool(latent.aux["kl"].isfinite())


def test_moments_and_noise_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        latent = bottleneck().train()(features())
    assert latent["global"].patches.dtype == torch.float32
    assert latent.aux["kl"].dtype == torch.float32


def test_gradient_reaches_mean_and_log_variance() -> None:
    built = bottleneck().train()
    latent = built(features())
    (latent["local"].patches.sum() + latent.aux["kl"]).backward()
    assert bool(built.moments.weight.grad.abs().sum(1).gt(0).all())


def test_it_has_no_codebook() -> None:
    with pytest.raises(TypeError, match="no codebook"):
        bottleneck().decode_codes(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
