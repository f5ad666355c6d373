"""Solvers of dx/dt = v(x, t) from noise, t = 0, to data, t = 1. Rows are solved each on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vtp_core.errors import NumericError

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(points (R, ...), times (R,), rows (R,) int64 of the batch that they belong to) -> velocities (R, ...)."""


def euler(field: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """Euler's method on a grid of times.

    Args:
        field: The velocity.
        x: Points (B, ...) at ``times[0]``.
        times: Rising.

    Returns:
        Points at ``times[-1]``.
    """
    rows = torch.arange(len(x), device=x.device)
    for start, stop in pairwise(times):
        x = x + (stop - start) * field(x, _at(start, x), rows)
    return x


def heun(field: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """Heun's method, the last step by Euler's; arguments as of `euler`.

    Of second order; the velocity is never asked for at the last time, where no network is trained.

    Source:
        Karras et al. 2022, algorithm 1.
    """
    rows = torch.arange(len(x), device=x.device)
    for start, stop in pairwise(times):
        step = stop - start
        first = field(x, _at(start, x), rows)
        ahead = x + step * first
        x = ahead if stop == times[-1] else x + step / 2 * (first + field(ahead, _at(stop, x), rows))
    return x


def _at(time: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
_ORDER = 4
"""Order of the embedded method, which estimates the error."""


def dopri5(
    field: Field, x: Tensor, *, rtol: float, atol: float, start: float = 0.0, stop: float = 1.0
) -> Tensor:
    """Dormand and Prince's method of order 5 with a step size of its own for each row.

    The error of a step is the root mean square of its estimate over atol + rtol max(|x|, |x'|), and steps
    grow and shrink as in scipy's RK45.

    Args:
        field: The velocity, asked at another time for each row.
        x: Points (B, ...) at `start`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        start: First time.
        stop: Last time, after `start`.

    Raises:
        NumericError: A row needs steps below the rounding of its time: the velocity is not finite or jumps.

    Source:
        Dormand and Prince 1980; Hairer, Norsett and Wanner, Solving ordinary differential equations I, II.4.
    """
    x = x.clone()
    time = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
    slope = field(x, time.to(x.dtype), torch.arange(len(x), device=x.device))
    step = _first_step(field, x, slope, time, stop - start, rtol, atol)
    shrunk = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    while len(rows := (time < stop).nonzero()[:, 0]):
        now, least = time[rows], 10 * _spacing(time[rows])
        if bool((shrunk[rows] & ~(step[rows] >= least)).any()):  # also of a NaN
            raise NumericError(
                "dopri5: the step size fell to zero; the velocity is not finite or not continuous"
            )
        ahead = (now + torch.maximum(step[rows], least)).clamp(max=stop)
        size = ahead - now
        new, last, error = _step(field, x[rows], slope[rows], now, size, rows, rtol, atol)
        good = error < 1
        # A NaN is no accepted step; it shrinks the step as far as allowed.
        growth = torch.where(error > 0, 0.9 * error.clamp(min=1e-30) ** (-1 / (_ORDER + 1)), 10.0)
        growth = torch.where(error.isfinite(), growth, 0.2)
        limit = torch.where(shrunk[rows], 1.0, 10.0)
        factor = torch.where(good, torch.minimum(growth, limit), growth.clamp(min=0.2))
        step[rows] = size * factor
        shrunk[rows] = ~good
        done = rows[good]
        x[done], slope[done], time[done] = new[good], last[good], ahead[good]
    return x


def _step(
    field: Field, x: Tensor, slope: Tensor, now: Tensor, size: Tensor, rows: Tensor, rtol: float, atol: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of some rows: new points, velocities there, errors (1 is as large as allowed)."""
    slopes, length, point = [slope], _like(size, x), x
    for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
        point = x + length * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)
        slopes.append(field(point, (now + node * size).to(x.dtype), rows))
    estimate = length * sum(w * k for w, k in zip(_ERROR, slopes, strict=True) if w)
    scale = atol + rtol * torch.maximum(x.abs(), point.abs())
    return point, slopes[-1], _size(estimate / scale)


def _first_step(
    field: Field, x: Tensor, slope: Tensor, time: Tensor, length: float, rtol: float, atol: float
) -> Tensor:
    """(B,) first step sizes."""
    scale = atol + rtol * x.abs()
    d0, d1 = _size(x / scale), _size(slope / scale)
    trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=length)
    rows = torch.arange(len(x), device=x.device)
    further = field(x + _like(trial, x) * slope, (time + trial).to(x.dtype), rows)
    d2 = _size((further - slope) / scale) / trial
    steep = torch.maximum(d1, d2)
    small = torch.clamp(trial * 1e-3, min=1e-6)
    chosen = torch.where(steep <= 1e-15, small, (0.01 / steep) ** (1 / (_ORDER + 1)))
    return torch.minimum(100 * trial, chosen).clamp(max=length)


def _size(x: Tensor) -> Tensor:
    """Root mean square of each row, float64."""
    return x.double().flatten(1).square().mean(1).sqrt()


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def _spacing(time: Tensor) -> Tensor:
    return torch.nextafter(time, torch.full_like(time, torch.inf)) - time
