"""The definition of `nearest_code` in numpy, one term after another, and data that is hard to search."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.ops import SearchKernel
from vtp_core.ops.installed import installed
from vtp_core.ops.nearest_code_torch import REFERENCE

Wide = NDArray[np.float64]

KERNELS = [REFERENCE, *(kernel for kernel in installed(SearchKernel) if kernel.missing() is None)]
KERNELS = [kernel for kernel in KERNELS if kernel.device in (None, "cpu")]
"""Every implementation that this machine can run on a CPU."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def eight_lanes(terms: Wide) -> Wide:
    """Sum over the last axis: term d goes to lane d mod 8, then ((0+4)+(2+6)) + ((1+5)+(3+7))."""
    lane = [np.zeros(terms.shape[:-1]) for _ in range(8)]
    for d in range(terms.shape[-1]):
        lane[d % 8] = lane[d % 8] + terms[..., d]
    even = (lane[0] + lane[4]) + (lane[2] + lane[6])
    return np.asarray(even + ((lane[1] + lane[5]) + (lane[3] + lane[7])))


def unit(x: Wide) -> Wide:
    """Row by row, zeros for a row of zeros."""
    rows = []
    for row in x:
        largest = np.abs(row).max()
        if largest == 0:
            rows.append(row)
            continue
        y = row * 2.0**-600 if largest > 2.0**500 else row * 2.0**600 if largest < 2.0**-500 else row
        rows.append(y * (1.0 / np.sqrt(eight_lanes(y * y))))
    return np.stack(rows) if rows else x


def all_distances(vectors: Tensor, codebook: Tensor, metric: str, weight: Tensor | None) -> Wide:
    """(N, K) float64: what the definition says, bit for bit."""
    x, c = vectors.double().numpy(), codebook.double().numpy()
    with np.errstate(all="ignore"):
        if metric == "cosine":
            u, v = unit(x), unit(c)
            half = 0.5 * eight_lanes((u[:, None] - v) * (u[:, None] - v))
            zero = (~x.any(-1))[:, None] | ~c.any(-1)
            return np.where(zero & ~np.isnan(half), 1.0, half)
        terms = (x[:, None] - c) * (x[:, None] - c)
        return eight_lanes(terms if weight is None else terms * weight.double().numpy())


def nearest(distances: Wide) -> tuple[NDArray[np.int64], Wide]:
    """Lowest index of the least distance that is no NaN, or -1."""
    least = np.fmin.reduce(distances, axis=1)
    found = distances == least[:, None]
    return np.where(np.isnan(least), -1, found.argmax(1)), least


DATA = (
    "normal",
    "offset",
    "grid",
    "duplicates",
    "pairs",
    "clusters",
    "bimodal",
    "one huge",
    "denormal",
    "extreme",
    "range",
    "infinite",
    "nan",
    "zeros",
    "codes",
)


def drawn(kind: str, rows: int, codes: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors and codebook of one kind of difficulty, in that dtype."""
    x, c = torch.randn(rows, width, dtype=torch.float64), torch.randn(codes, width, dtype=torch.float64)
    some, other = torch.rand(rows, width) < 0.1, torch.rand(codes, width) < 0.1
    match kind:
        case "offset":
            x, c = x + 1e4, c + 1e4
        case "grid":
            x, c = x.round(), c.round()
        case "duplicates":
            c = c[torch.randint(0, max(1, codes // 3), (codes,))]
        case "pairs":
            c = c[torch.arange(codes) // 2] + 1e-6 * torch.randn_like(c)
        case "clusters":
            centres = 100 * torch.randn(3, width, dtype=torch.float64)
            x, c = x + centres[torch.randint(0, 3, (rows,))], c + centres[torch.randint(0, 3, (codes,))]
        case "bimodal":
            signs = torch.randint(0, 2, (codes, 1)) * 2 - 1
            x, c = 0.1 * x + 100, 0.1 * c + 100 * signs
        case "one huge":
            c[codes // 2] *= 1e3
        case "denormal":
            x, c = x * 1e-40, c * 1e-40
            if dtype == torch.float64:
                x, c = x * 1e-270, c * 1e-270
        case "extreme":
            x, c = (y * 10.0 ** torch.randint(-4, 5, (len(y), 1)) for y in (x, c))
            if dtype == torch.float64:
                x, c = (y * 10.0 ** torch.randint(-200, 201, (len(y), 1)) for y in (x, c))
        case "range":
            most = 4 if dtype == torch.float16 else 37
            x, c = (y * 10.0 ** torch.randint(-most, most + 1, (len(y), 1)) for y in (x, c))
        case "infinite":
            x[some], c[other] = torch.inf, torch.inf * c[other].sign()
        case "nan":
            x[some], c[other] = torch.nan, torch.nan
        case "zeros":
            x[::2], c[1::3] = 0, 0
        case "codes":
            x = c[torch.randint(0, codes, (rows,))]
    return x.to(dtype), c.to(dtype)


def squares_out_of_range() -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    """Vectors, codebook, weight: the definition squares before it weights, and then some distances tie."""

    def case(codes: list[float], weight: float | None) -> tuple[Tensor, Tensor, Tensor | None]:
        x, c = torch.zeros(1, 1, dtype=torch.float64), torch.tensor(codes, dtype=torch.float64)[:, None]
        return x, c, None if weight is None else torch.tensor([weight], dtype=torch.float64)

    return {
        "infinite, light": case([2e160, 1e160], 1e-300),
        "zero, heavy": case([2e-165, 1e-165], 1e40),
        "zero, very heavy": case([2e-170, 1e-170], 1e300),
        "zero by the weight": case([2e-20, 1e-20], 1e-300),
        "zero without a weight": case([2e-165, 1e-165], None),
        "near zero": case([3e-162, 2e-162, 1e-162], 1e10),
        "one infinite": case([1e160, 1e150, 1e140], 1e-290),
    }


def log_uniform(rows: int, width: int, most: int) -> Tensor:
    """(rows, width) float64 of both signs, magnitudes from 10^-most to 10^most, a row's near each other."""
    exponents = torch.randint(-most, most + 1, (rows, 1)) + torch.rand(rows, width, dtype=torch.float64)
    return torch.randn(rows, width, dtype=torch.float64).sign() * 10.0**exponents
