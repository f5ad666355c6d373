"""Fréchet and kernel distances between two sets of features, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.errors import NumericError
from vtp_core.evaluation.jackknife import Estimate

ROOT_TOLERANCE = 1e-8
"""Largest relative difference between a covariance and the square of its root."""
TILE = 1 << 23
"""Kernel values that are held at once."""


class Moments:
    """Streaming mean and covariance of rows, in float64 on the CPU.

    Attributes:
        sums: Number of rows, their sum and the sum of their outer products, (1 + C + C * C,). The sums of
            several ranks add up.
    """

    def __init__(self, channels: int, sums: Tensor | None = None) -> None:
        self.channels = channels
        size = 1 + channels + channels**2
        self.sums = torch.zeros(size, dtype=torch.float64) if sums is None else sums

    def add(self, rows: Tensor) -> None:
        """Adds rows (B, C)."""
        wide = rows.double().cpu()
        self.sums[0] += len(wide)
        self.sums[1 : 1 + self.channels] += wide.sum(0)
        self._outer().addmm_(wide.T, wide)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and unbiased covariance (C, C).

        Raises:
            ValueError: Fewer than two rows were counted.
        """
        count = float(self.sums[0])
        if count < 2:
            raise ValueError(f"a covariance needs two rows, there are {count:.0f}")
        mean = self.sums[1 : 1 + self.channels] / count
        return mean, (self._outer() - count * torch.outer(mean, mean)) / (count - 1)

    def _outer(self) -> Tensor:
        return self.sums[1 + self.channels :].view(self.channels, self.channels)


def matrix_root(covariance: Tensor) -> Tensor:
    """The symmetric root of a covariance (C, C), by its eigenvalues.

    Raises:
        NumericError: The matrix has entries that are not finite, or its root's square is not the matrix.
    """
    if not bool(covariance.isfinite().all()):
        raise NumericError("the covariance of the features is not finite; check the images and the weights")
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    wrong = float((root @ root - covariance).norm())
    if wrong > ROOT_TOLERANCE * float(covariance.norm()):
        raise NumericError(f"the root of the features' covariance is inexact (residual {wrong:.2g})")
    return root


def frechet_distance(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], root: Tensor | None = None
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two means (C,) and covariances (C, C), float64.

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which has the same eigenvalues: symmetric
    matrices alone, so that it stays real where C1 C2 is singular.

    Args:
        one: Mean and covariance.
        other: Mean and covariance.
        root: `matrix_root` of the first covariance, if it is known.

    Raises:
        NumericError: As of `matrix_root`.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017 for image features.
    """
    (mean, covariance), (other_mean, other_covariance) = one, other
    root = matrix_root(covariance) if root is None else root
    inner = torch.linalg.eigvalsh(root @ other_covariance @ root)
    trace = covariance.trace() + other_covariance.trace() - 2 * inner.clamp_min(0).sqrt().sum()
    return float((mean - other_mean).square().sum() + trace.clamp_min(0))


def kernel_distance(
    rows: Tensor,
    reference: Tensor,
    parts: Tensor | None = None,
    reference_parts: Tensor | None = None,
    *,
    paired: bool = False,
) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x . y / C + 1)^3, unbiased, of all pairs.

    It is what the mean over random subsets of other implementations estimates, without their noise.

    Args:
        rows: (n, C) features.
        reference: (m, C) features.
        parts: (n,) int64, the part of each row; each is left out in turn for the jackknife. None: no error.
        reference_parts: (m,) int64, parts of the reference that are left out together with those of the
            rows; None: the reference is held fixed.
        paired: Whether row i was made of row i of the reference: such pairs are left out, or images that are
            similar to their own originals would give less than zero.

    Raises:
        ValueError: A set has fewer than two rows.

    Source:
        Binkowski et al. 2018, section 3; Gretton et al. 2012, equation 3, paired: equation 4.
    """
    if min(len(rows), len(reference)) < 2:
        raise ValueError(f"a kernel distance needs two rows of each, got {len(rows)} and {len(reference)}")
    groups = _one_hot(parts, len(rows), rows.device)
    others = _one_hot(reference_parts, len(reference), rows.device)
    own = _kernel_sums(rows, rows, groups, groups)
    own -= _paired_sums(rows, rows, groups, groups)
    theirs = _kernel_sums(reference, reference, others, others)
    theirs -= _paired_sums(reference, reference, others, others)
    cross = _kernel_sums(rows, reference, groups, others)
    if paired:
        cross -= _paired_sums(rows, reference, groups, others)
    counts, other_counts = groups.sum(0), others.sum(0)

    def distance(kept: Tensor, other_kept: Tensor) -> float:
        n, m = float(counts @ kept), float(other_counts @ other_kept)
        pairs = n * (n - 1) if paired else n * m
        return float(
            kept @ own @ kept / (n * (n - 1))
            + other_kept @ theirs @ other_kept / (m * (m - 1))
            - 2 * (kept @ cross @ other_kept) / pairs
        )

    every, all_others = torch.ones_like(counts), torch.ones_like(other_counts)
    without = []
    for part in counts.nonzero().flatten().tolist() if parts is not None else ():
        kept, other_kept = every.clone(), all_others.clone()
        kept[part] = 0
        if reference_parts is not None and part < len(other_kept):
            other_kept[part] = 0
        if min(float(counts @ kept), float(other_counts @ other_kept)) >= 2:
            without.append(distance(kept, other_kept))
    return Estimate(value=distance(every, all_others), without=without)


def _one_hot(parts: Tensor | None, count: int, device: torch.device) -> Tensor:
    """(n, parts) float64; one part if there are none."""
    if parts is None:
        return torch.ones(count, 1, dtype=torch.float64, device=device)
    return torch.nn.functional.one_hot(parts.to(device)).double()


def _kernel_sums(rows: Tensor, others: Tensor, groups: Tensor, other_groups: Tensor) -> Tensor:
    """Sums of the kernel over all pairs, by part and part."""
    total = torch.zeros(groups.shape[1], other_groups.shape[1], dtype=torch.float64, device=rows.device)
    wide, tile = others.double().T, max(TILE // len(others), 1)
    for part, group in zip(rows.split(tile), groups.split(tile), strict=True):
        total += group.T @ ((part.double() @ wide / rows.shape[1] + 1) ** 3 @ other_groups)
    return total


def _paired_sums(rows: Tensor, others: Tensor, groups: Tensor, other_groups: Tensor) -> Tensor:
    """Sums of the kernel between row i and other row i, by part and part."""
    tiles = zip(rows.split(4096), others.split(4096), strict=True)
    dots = torch.cat([(part.double() * other.double()).sum(1) for part, other in tiles])
    kernel = (dots / rows.shape[1] + 1) ** 3
    return groups.T @ (kernel[:, None] * other_groups)
