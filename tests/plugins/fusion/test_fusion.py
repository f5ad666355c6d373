"""Fusion of layers against plain formulas, the latent chain, and statistics of the bottleneck."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from vtp_core.features import Features
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_core.parameters import Dims
from vtp_core.testing import check_bottleneck, drawn_features
from vtp_plugins.fusion.bottleneck import FusionBottleneck
from vtp_plugins.fusion.chain import disturbed
from vtp_plugins.fusion.config import ChainConfig, FusionBottleneckConfig, FusionConfig
from vtp_plugins.fusion.fusion import Fusion

DIMS = Dims(width=16, patch=8, depth=4, has_cls=True)
KINDS = {
    "concat": {"kind": "concat", "layers": [0, 2], "shallow": 5},
    "deep only": {"kind": "concat"},
    "mean": {"kind": "mean", "layers": [1, 3], "add_mean": True},
    "layer drop": {"kind": "mean", "layers": [0, 1, 2, 3], "layer_drop": 0.5},
    "residual": {"kind": "residual", "layers": [3]},
}


def tokens(layers: tuple[int, ...], rows: int = 6):  # type: ignore[no-untyped-def]
    return drawn_features(DIMS, layers, rows)["global"]


def normed(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_bottleneck_keeps_the_rules(name: str, normalize: bool) -> None:
    config = FusionBottleneckConfig(
        fusion=KINDS[name], normalize=normalize, calibration_rows=4, chain={"noise": 0.5, "mask": 0.3}
    )
    check_bottleneck(FusionBottleneck, config, dims=DIMS)
    if normalize:
        check_bottleneck(FusionBottleneck, config.model_copy(update={"recalibrate": (1, 50)}), dims=DIMS)


def test_concat_is_deep_beside_reduced_shallow() -> None:
    fusion = Fusion(FusionConfig(**KINDS["concat"]), DIMS)
    given = tokens(fusion.layers)
    found = fusion(given)
    assert list(found) == ["deep", "shallow"] == list(fusion.branches)
    assert fusion.channels == 16 + 5
    assert torch.equal(found["deep"], given.patches)  # untouched
    taps = torch.cat([normed(given.layers[0]), normed(given.layers[2])], -1)
    expected = taps @ fusion.reduce.weight.T + fusion.reduce.bias
    torch.testing.assert_close(found["shallow"], expected)


def test_dino_tok_has_832_channels() -> None:
    dims = Dims(width=768, patch=16, depth=12, has_cls=True)
    assert Fusion(FusionConfig(kind="concat", layers=(2,)), dims).channels == 832


def test_mean_of_normed_layers_with_the_spatial_mean() -> None:
    fusion = Fusion(FusionConfig(**KINDS["mean"]), DIMS)
    given = tokens(fusion.layers)
    expected = (normed(given.layers[1]) + normed(given.layers[3])) / 2 + given.patches.mean(2, keepdim=True)
    torch.testing.assert_close(fusion(given)["fused"], expected)


def test_layer_drop_keeps_a_subset_of_each_row() -> None:
    fusion = Fusion(FusionConfig(**KINDS["layer drop"]), DIMS).train()
    given, seeds = tokens(fusion.layers, 200), row_seeds(3, torch.arange(200))
    found = fusion(given, seeds)["fused"]
    drawn = row_rand(seeds, 4)
    sizes = []
    for row in range(200):
        kept = [k for k in range(4) if drawn[row, k] >= 0.5] or [int(drawn[row].argmax())]
        sizes.append(len(kept))
        expected = torch.stack([normed(given.layers[k][row]) for k in kept]).mean(0)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
    assert set(sizes) == {1, 2, 3, 4}
    plain = torch.stack([normed(given.layers[k]) for k in range(4)]).mean(0)
    torch.testing.assert_close(fusion.eval()(given, seeds)["fused"], plain, rtol=1e-4, atol=1e-5)


def test_widths_of_taps_may_differ() -> None:
    dims = Dims(width=16, patch=8, depth=2, has_cls=False, tap_widths=(3, 7))
    fusion = Fusion(FusionConfig(kind="concat", layers=(0, 1)), dims)
    assert fusion.reduce.in_features == 10
    assert Fusion(FusionConfig(kind="residual", layers=(1,)), dims).branches == {"deep": 16, "residual": 7}


def test_channels_get_mean_0_and_deviation_1() -> None:
    config = FusionBottleneckConfig(fusion=KINDS["concat"], calibration_rows=40)
    bottleneck = FusionBottleneck(config, DIMS).eval()
    features = drawn_features(DIMS, bottleneck.layers, 40)
    features = Features(crops={"global": features["global"]})
    features["global"].patches[..., 3] = 7.0  # constant: moved, not scaled
    features["global"].patches[..., 5] *= 300
    bottleneck.calibrate(bottleneck.observe(features))
    z = bottleneck(features)["global"].patches.flatten(0, 2)
    torch.testing.assert_close(z.mean(0), torch.zeros(21), atol=1e-4, rtol=0)
    expected = torch.ones(21)
    expected[3] = 0
    torch.testing.assert_close(z.std(0), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("skipped", [(), (2,), (3,), (2, 3)])
def test_statistics_of_a_branch_that_trains_are_measured_again(skipped: tuple[int, ...]) -> None:
    config = FusionBottleneckConfig(fusion=KINDS["concat"], calibration_rows=40, recalibrate=(3,))
    bottleneck = FusionBottleneck(config, DIMS).train()
    features = drawn_features(DIMS, bottleneck.layers, 40)
    bottleneck.calibrate(bottleneck.observe(features))
    with torch.no_grad():
        bottleneck.fusion.reduce.weight *= 10  # what training does
        bottleneck.fusion.reduce.bias += 3
    missed, deviations = 0, []
    for index in range(1, 6):
        bottleneck.before_step(range(index - missed, index + 1))
        found = bottleneck(features)
        z = found["global"].patches.flatten(0, 2)
        deviations.append(z.std(0)[16:].mean().item())
        torch.testing.assert_close(found.report["shallow.rms"], z[:, 16:].square().mean().sqrt())
        torch.testing.assert_close(found.report["deep.rms"], torch.tensor(1.0), rtol=0.02, atol=0)
        missed += 1
        if index not in skipped:
            if found.tally is not None:
                bottleneck.after_step(found.tally, index)
            missed = 0
    measured = 4 if 3 in skipped else 3
    assert deviations[measured - 1] == pytest.approx(10, rel=1e-3)
    assert deviations[measured:] == pytest.approx([1] * (5 - measured), rel=1e-3)


def test_noise_is_in_units_before_the_normalisation() -> None:
    z, seeds = torch.zeros(500, 2, 4, 4), row_seeds(0, torch.arange(500))
    std = torch.tensor([1.0, 10.0])
    found = disturbed(z, seeds, ChainConfig(noise=0.8), std)
    sigma = 0.8 * row_rand(seeds, 1).flatten()
    measured = found.flatten(2).std(2)
    assert torch.corrcoef(torch.stack([sigma, measured[:, 0]]))[0, 1] > 0.9
    torch.testing.assert_close(measured[:, 0].mean(), 10 * measured[:, 1].mean(), rtol=0.05, atol=0)
    assert torch.equal(disturbed(z, seeds, ChainConfig()), z)


def test_masked_positions_are_the_mean() -> None:
    z, seeds = torch.ones(400, 3, 8, 8), row_seeds(0, torch.arange(400))
    found = disturbed(z, seeds, ChainConfig(mask=0.6))
    assert torch.equal(found.amin(1), found.amax(1))  # all channels of a position
    fractions = (found[:, 0] == 0).float().mean((1, 2))
    assert fractions.mean().item() == pytest.approx(0.3, abs=0.03)
    assert fractions.max() > 0.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "mean"}, "'mean' needs at least one"),
        ({"kind": "residual", "layers": [1, 2]}, "the one tap"),
        ({"kind": "concat", "add_mean": True}, "are of kind 'mean'"),
    ],
)
def test_tables_that_contradict_themselves(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FusionConfig(**keys)
    with pytest.raises(ValidationError, match="recalibrate: nothing is measured"):
        FusionBottleneckConfig(normalize=False, recalibrate=[3])
