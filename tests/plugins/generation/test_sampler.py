"""Solvers on the flow of a Gaussian, known in closed form, and against scipy's."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from tests.agreement import Agreement
from tests.plugins.generation.plain_dit import Gaussian
from vtp_core.errors import NumericError
from vtp_plugins.generation.sampler import dopri5, euler, heun

FLOW = Gaussian(numpy.array([1.0, -2.0, 0.3, 0.0]), numpy.array([0.1, 2.0, 0.02, 1.0]))
NOISE = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EXACT = torch.from_numpy(FLOW.point(NOISE.numpy(), 1.0))


def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    assert len(x) == len(t) == len(rows)
    return torch.from_numpy(FLOW.velocity(x.numpy(), t.numpy()[:, None]))


@pytest.mark.agrees("sampler dopri5: each row, and its calls", "scipy", 1e-10)
@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-6), (1e-8, 1e-10)])
def test_dopri5_is_scipys_for_each_row(rtol: float, atol: float, agreement: Agreement) -> None:
    calls = torch.zeros(len(NOISE), dtype=torch.int64)

    def counted(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        calls[rows] += 1
        return field(x, t, rows)

    found = dopri5(counted, NOISE, rtol=rtol, atol=atol)
    for row, noise in enumerate(NOISE.numpy()):
        other = solve_ivp(
            lambda t, x: FLOW.velocity(x, t), (0, 1), noise, method="RK45", rtol=rtol, atol=atol
        )
        agreement(calls[row], other.nfev)
        agreement(found[row], other.y[:, -1])
    assert len(set(calls.tolist())) > 1  # the rows took steps of their own
    assert (found - EXACT).abs().max() < 100 * rtol


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(solver: object, order: int) -> None:
    errors = []
    for steps in (200, 400):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
        errors.append(float((solver(field, NOISE, times) - EXACT).abs().max()))  # type: ignore[operator]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
    assert errors[1] < 0.02


def test_heun_never_asks_at_the_last_time() -> None:
    asked: list[float] = []

    def noted(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        asked.append(float(t[0]))
        return field(x, t, rows)

    heun(noted, NOISE, [0.0, 0.5, 1.0])
    assert asked == [0.0, 0.5, 0.5]


def test_a_velocity_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(NumericError, match="not finite or not continuous"):
        dopri5(lambda x, t, rows: torch.where(t[:, None] > 0.5, torch.nan, x), NOISE, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("rows", [1, len(NOISE)])
def test_one_that_is_not_finite_from_the_start_ends(value: float, rows: int) -> None:
    """The first step was NaN, and no comparison with it ever ended the loop."""
    calls = 0

    def broken(x: Tensor, t: Tensor, numbers: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert calls < 1000
        return torch.where((numbers < rows)[:, None], x * value, x)

    with pytest.raises(NumericError, match="not finite or not continuous"):
        dopri5(broken, NOISE, rtol=1e-3, atol=1e-6)
