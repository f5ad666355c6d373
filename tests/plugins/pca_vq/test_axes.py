"""Principal axes, weights, effective dimensions and the rate-distortion bound, against numpy and formulas."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.agreement import Agreement
from vtp_core.errors import DataError
from vtp_core.math.moments import Moments, merge
from vtp_plugins.pca_vq.axes import effective_dimensions, explained_rank, principal_axes, search_weights
from vtp_plugins.pca_vq.config import AxesConfig, BranchConfig
from vtp_plugins.pca_vq.rate import decibels_above_bound, split_bits, water_filling

FILE = Path(__file__).parents[2] / "data" / "vq_math.npz"
SPECTRUM = 1 / torch.arange(1.0, 201, dtype=torch.float64)


@pytest.mark.agrees(
    "principal axes: moments", "numpy reference", 1e-9, version="fixture vq_math", relative=True
)
@pytest.mark.agrees(
    "principal axes: variances, subspaces", "numpy reference", 1e-7, version="fixture vq_math"
)
def test_axes_of_the_parity_file(agreement: Agreement) -> None:
    with numpy.load(FILE) as data:
        y, mean, covariance, variances, vectors = (
            torch.from_numpy(data[f"pca_{name}"]) for name in ("y", "mean", "cov", "lam", "U")
        )
    moments = merge([Moments.of(part) for part in y.split([300, 1, 599, 100])])
    torch.testing.assert_close(moments.mean, mean, rtol=1e-12, atol=0)
    agreement(moments.covariance, covariance, "principal axes: moments")
    axes = principal_axes(moments)
    torch.testing.assert_close(axes.variances, variances, rtol=1e-9, atol=1e-9)
    agreement(axes.variances, variances, "principal axes: variances, subspaces")
    for rank in (1, 4, 11):
        mine, theirs = (u[:, :rank] @ u[:, :rank].T for u in (axes.vectors, vectors))
        agreement(mine, theirs, "principal axes: variances, subspaces")
    largest = axes.vectors.gather(0, axes.vectors.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(50, 3) * 300, "all vectors are equal"),
        (torch.zeros(50, 3), "all vectors are equal"),
        (torch.full((50, 3), torch.nan), "0 finite vectors"),
        (torch.randn(1, 3), "1 finite vectors"),
    ],
)
def test_features_without_axes_are_refused(vectors: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        principal_axes(Moments.of(vectors))


def test_weights_follow_their_formulas() -> None:
    variances = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0], dtype=torch.float64)

    def relative(**keys: object) -> list[float]:
        weights = search_weights(variances, AxesConfig(**keys), bits=4)
        assert (weights * variances).sum().item() == pytest.approx(16)  # the scale of the plain metric
        return (weights / weights[0]).tolist()

    assert relative(mode="plain") == [1, 1, 1, 1, 1]
    assert relative(mode="reweight", alpha=2) == pytest.approx([1, 1 / 4, 1 / 16, 1 / 64, 1 / 64])
    assert relative(mode="whiten") == pytest.approx([1, 2, 4, 8, 8])
    assert relative(mode="dsq", rank=2) == [1, 1, 0, 0, 0]
    assert relative(mode="dsq", variance=0.75) == [1, 1, 0, 0, 0]
    assert relative(mode="dsq", variance=0.76) == [1, 1, 1, 0, 0]
    assert relative(mode="rate", bits=2) == [1, 1, 1, 0, 0]  # 1.17 + 0.67 + 0.17 bits
    assert relative(mode="rate", bits=1.4) == [1, 1, 0, 0, 0]
    assert explained_rank(variances, 1.0) == 5


def test_distances_spread_by_the_effective_dimensions() -> None:
    """The facts' measured values: 1/k spectrum of 200 axes, alpha 0, 1 and 2."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4000, 200, generator=draw, dtype=torch.float64) * SPECTRUM.sqrt() for _ in range(2))
    for alpha, expected, tolerance in ((0.0, 21, 1), (1.0, 2.5, 0.1), (2.0, 1.4, 0.1)):
        weights = search_weights(SPECTRUM, AxesConfig(mode="reweight", alpha=alpha), 10)
        d_eff = effective_dimensions(SPECTRUM, weights).item()
        assert d_eff == pytest.approx(expected, abs=tolerance)
        distance = (weights * (x - y).square()).sum(-1)
        spread = (distance.std() / distance.mean()).item()
        assert spread == pytest.approx((2 / d_eff) ** 0.5, rel=0.08)


@given(bits=st.floats(0.0, 60.0), count=st.integers(1, 12), seed=st.integers(0, 50))
def test_water_filling_spends_its_bits_on_one_level(bits: float, count: int, seed: int) -> None:
    variances = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e-3
    least, spent = water_filling(variances, bits)
    assert spent.sum().item() == pytest.approx(bits, abs=1e-6)
    left = variances * 4.0**-spent
    assert least == pytest.approx(left.sum().item(), rel=1e-6)
    active = spent > 1e-9
    if active.any():
        assert left[active].std(unbiased=False).item() < 1e-6 * left[active].mean().item() + 1e-12
        assert (variances[~active] <= left[active].max() + 1e-9).all()


def test_one_axis_loses_6_decibels_a_bit() -> None:
    variance = torch.tensor([4.0])
    assert water_filling(variance, 3.0)[0] == pytest.approx(4 / 64)
    assert decibels_above_bound(torch.tensor(4 / 64), variance, 3.0).item() == pytest.approx(0, abs=1e-4)
    assert decibels_above_bound(torch.tensor(4 / 16), variance, 3.0).item() == pytest.approx(6.02, abs=0.01)


def test_branches_share_one_water_level() -> None:
    deep, shallow = torch.tensor([4.0, 4.0]), torch.tensor([1.0])
    share = split_bits({"deep": deep, "shallow": shallow}, 5.0)
    assert share == pytest.approx({"deep": 2 * (1 + 1), "shallow": 1.0}, abs=1e-6)


def test_a_cosine_codebook_is_refused() -> None:
    with pytest.raises(ValidationError, match="squared distance"):
        BranchConfig(codebook={"metric": "cosine"})
