"""A closed-form decoder: ridge regression from vectors of 3 x 3 positions to pixels of the middle patch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates, as fractions of the inputs' mean variance; a fifth of the training images chooses."""


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A solved regression.

    Attributes:
        weight: (window^2 D, E).
        offset: (E,), the mean target.
        mean: (D,), subtracted from vectors; positions off the grid are zero after it.
        window: Positions a side that are read.
        penalty: The chosen one.
    """

    weight: Tensor
    offset: Tensor
    mean: Tensor
    window: int
    penalty: float

    def predict(self, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        """Targets (B, N, E) of vectors (B, N, D)."""
        return _windows(vectors - self.mean, grid, self.window) @ self.weight + self.offset

    def decode(self, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        """Vectors (B, N, D) to images (B, 3, S, S) uint8, where the targets are patches."""
        return as_images(self.predict(vectors, grid), grid)


def solve(vectors: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Ridge:
    """The decoder of training images.

    Args:
        vectors: (B, N, D), N the grid's positions.
        pixels: (B, 3, S, S) uint8.
        grid: Rows and columns.
    """
    return regress(vectors, as_patches(pixels, grid), grid)


def regress(vectors: Tensor, targets: Tensor, grid: tuple[int, int], window: int = 3) -> Ridge:
    """The ridge regression from the vectors around each position to its target.

    Args:
        vectors: (B, N, D), N the grid's positions.
        targets: (B, N, E).
        grid: Rows and columns.
        window: Positions a side that are read; odd.
    """
    mean = vectors.mean((0, 1))
    x = _windows(vectors - mean, grid, window)
    offset = targets.mean((0, 1))
    y = targets - offset
    aside = torch.arange(len(x)) % 5 == 4
    parts = [(x[chosen].flatten(0, 1), y[chosen].flatten(0, 1)) for chosen in (~aside, aside)]
    grams = [((a.T @ a).double(), (a.T @ b).double()) for a, b in parts]

    def weight(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
        scale = gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.solve(gram + penalty * scale * eye, cross).float()

    def loss(penalty: float) -> float:
        a, b = parts[1]
        return (a @ weight(*grams[0], penalty) - b).square().mean().item()

    best = min(PENALTIES, key=loss) if bool(aside.any()) else PENALTIES[0]
    whole = [sum(each[1:], each[0]) for each in zip(*grams, strict=True)]
    solved = weight(whole[0], whole[1], best)
    return Ridge(weight=solved, offset=offset, mean=mean, window=window, penalty=best)


def as_images(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, N, 3 p p) of 0 to 1 as images (B, 3, S, S) uint8."""
    side = round((patches.shape[-1] // 3) ** 0.5)
    size = (grid[0] * side, grid[1] * side)
    images = F.fold(patches.transpose(1, 2), size, side, stride=side)
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


def as_patches(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images (B, 3, S, S) uint8 as patches (B, N, 3 p p) of 0 to 1."""
    side = pixels.shape[-1] // grid[1]
    return F.unfold(pixels.float() / 255, side, stride=side).transpose(1, 2)


def image_psnr(shown: Tensor, images: Tensor) -> Tensor:
    """(B,) float64, the PSNR in dB of each 8-bit image (B, 3, H, W)."""
    error = (shown.double() - images.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-3))


def psnr(shown: Tensor, images: Tensor) -> float:
    """Mean over images of the PSNR in dB."""
    return image_psnr(shown, images).mean().item()


def _windows(vectors: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """(B, N, D) to (B, N, window^2 D)."""
    maps = vectors.transpose(1, 2).unflatten(2, grid)
    return F.unfold(maps, window, padding=window // 2).transpose(1, 2)
