"""Resampled weights against the formulas of the papers, in float64 and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtp_core.ops import resample_grid, resample_patch_embedding, resample_pixels, resample_positions

SIDES = st.integers(1, 12)


def triangle(old: int, new: int) -> NDArray[np.float64]:
    """The antialiased bilinear resize of a line, (new, old): a triangle as wide as the larger pixel."""
    matrix, scale = np.zeros((new, old)), old / new
    support = max(scale, 1.0)
    for row in range(new):
        center = (row + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - center) / support)
        matrix[row] = weights / weights.sum()
    return matrix


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_patch_embedding_is_that_of_flexivit(rows: int, columns: int, tall: int, wide: int) -> None:
    """pinv(B^T) w, with B the whole resize of a patch written as one matrix."""
    weight = drawn(2, 3, rows, columns)
    whole = np.kron(triangle(rows, tall), triangle(columns, wide))
    expected = weight.numpy().reshape(6, -1) @ np.linalg.pinv(whole.T, rcond=1e-12).T
    found = resample_patch_embedding(weight, (2, 3, tall, wide))
    np.testing.assert_allclose(found.numpy().reshape(6, -1), expected, atol=1e-7)


@given(st.integers(2, 8), st.integers(0, 8))
def test_larger_patches_give_the_same_tokens(side: int, more: int) -> None:
    weight, images = drawn(4, 3, side, side), drawn(2, 3, side, side)
    larger = side + more
    resize = torch.from_numpy(triangle(side, larger))
    tokens = F.conv2d(resize @ images @ resize.T, resample_patch_embedding(weight, (4, 3, larger, larger)))
    torch.testing.assert_close(tokens, F.conv2d(images, weight), atol=1e-8, rtol=1e-8)


@given(SIDES, SIDES)
def test_a_pixel_layer_makes_the_resized_patches(old: int, new: int) -> None:
    weight, bias, latent = drawn(3 * old * old, 5, 1, 1), drawn(3 * old * old), drawn(1, 5, 1, 1)
    patch = F.pixel_shuffle(F.conv2d(latent, weight, bias), old)
    larger = resample_pixels(weight, (3 * new * new, 5, 1, 1)), resample_pixels(bias, (3 * new * new,))
    resize = torch.from_numpy(triangle(old, new))
    found = F.pixel_shuffle(F.conv2d(latent, *larger), new)
    torch.testing.assert_close(found, resize @ patch @ resize.T, atol=1e-9, rtol=1e-9)


@given(SIDES, SIDES)
def test_positions_of_a_sequence_are_interpolated(old: int, new: int) -> None:
    values = drawn(old, 6)
    found = resample_positions(values, (new, 6))
    np.testing.assert_allclose(found.numpy(), triangle(old, new) @ values.numpy(), atol=1e-12)
    line = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    ends = resample_positions(line, (80, 1))[1:-1, 0]
    torch.testing.assert_close(ends, torch.linspace(0.25, 38.75, 78, dtype=torch.float64) / 39)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 4))
def test_positions_of_a_grid_are_interpolated(old: int, new: int, prefix: int) -> None:
    values = drawn(1, prefix + old * old, 6)
    found = resample_grid(values, (1, prefix + new * new, 6))
    grid = values[:, prefix:].transpose(1, 2).unflatten(2, (old, old))
    expected = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    assert torch.equal(found[:, :prefix], values[:, :prefix])
    torch.testing.assert_close(found[:, prefix:], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert resample_patch_embedding(torch.ones(1, 3, 4, 4, dtype=dtype), (1, 3, 8, 8)).dtype == dtype
    assert resample_grid(torch.ones(1, 5, 2, dtype=dtype), (1, 10, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("function", "shape", "wanted"),
    [
        (resample_patch_embedding, (8, 3, 4, 4), (9, 3, 8, 8)),
        (resample_patch_embedding, (8, 3, 4, 4), (8, 1, 8, 8)),
        (resample_patch_embedding, (8, 48), (8, 3, 8, 8)),
        (resample_pixels, (48, 8, 1, 1), (192, 9, 1, 1)),
        (resample_pixels, (48,), (50,)),
        (resample_positions, (77, 8), (40, 9)),
        (resample_positions, (77,), (40,)),
        (resample_grid, (1, 17, 8), (1, 16, 8)),
        (resample_grid, (2, 17, 8), (1, 26, 8)),
    ],
)
def test_other_axes_must_be_equal(function, shape, wanted) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="can't be resampled"):
        function(torch.zeros(*shape), wanted)
