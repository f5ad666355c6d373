"""The convolutional networks on strips of rows: whole maps lie in host memory, a strip on the device.

The result is that of the whole map up to rounding: convolutions see the rows beyond a strip's edges, and
norms use the moments of the whole map. Attention, by default in the coarsest maps alone, runs on whole maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_plugins.cnn.layers import Block, Double, Halve, Residual

HOST = torch.device("cpu")

Strip = Callable[[int, int], Tensor]
"""Rows first .. last - 1 of a layer's result, on the device."""


class Strips:
    """Runs layers on maps (B, C, h, w) in host memory.

    Args:
        rows: Rows of a strip of a layer's result.
        device: Where the layers are.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows, self.device = rows, device

    def run(self, layers: Iterable[nn.Module], x: Tensor) -> Tensor:
        """The map behind residual blocks and changes of size, in order."""
        for layer in layers:
            if isinstance(layer, Block):
                x = self._residual(layer.residual, x)
                if layer.attention is not None:
                    x = layer.attention(x.to(self.device)).to(HOST)
            elif isinstance(layer, Halve):
                x = self._halved(layer, x)
            else:
                assert isinstance(layer, Double)
                x = self._doubled(layer, x)
        return x

    def convolve(self, x: Tensor, layer: nn.Conv2d, norm: nn.GroupNorm | None = None) -> Tensor:
        """A 3 x 3 convolution of the map, or of SiLU of its norm."""
        moments = None if norm is None else self._moments(norm, x)

        def strip(first: int, last: int) -> Tensor:
            above, below = max(first - 1, 0), min(last + 1, x.shape[2])
            piece = x[:, :, above:below].to(self.device)
            if moments is not None:
                piece = F.silu(piece * moments[0] + moments[1])
            padding = (1, 1, above - (first - 1), last + 1 - below)
            return F.conv2d(F.pad(piece, padding), layer.weight, layer.bias)

        return self._joined(x.shape[2], strip)

    def _residual(self, block: Residual, x: Tensor) -> Tensor:
        y = self.convolve(x, block.conv1, block.norm1)
        y = self.convolve(y, block.conv2, block.norm2)
        for first, last in self._spans(x.shape[2]):
            shortcut = block.shortcut(x[:, :, first:last].to(self.device))
            y[:, :, first:last] = (shortcut + y[:, :, first:last].to(self.device)).to(HOST)
        return y

    def _halved(self, layer: Halve, x: Tensor) -> Tensor:
        height = x.shape[2]

        def strip(first: int, last: int) -> Tensor:
            below = min(2 * last + 1, height)
            piece = x[:, :, 2 * first : below].to(self.device)
            piece = F.pad(piece, (0, 1, 0, 2 * last + 1 - below))
            return F.conv2d(piece, layer.conv.weight, layer.conv.bias, stride=2)

        return self._joined(height // 2, strip)

    def _doubled(self, layer: Double, x: Tensor) -> Tensor:
        height = 2 * x.shape[2]

        def strip(first: int, last: int) -> Tensor:
            above, below = max(first - 1, 0), min(last + 1, height)
            start = above // 2
            piece = x[:, :, start : (below + 1) // 2].to(self.device)
            piece = F.interpolate(piece, scale_factor=2.0, mode="nearest")
            piece = piece[:, :, above - 2 * start : below - 2 * start]
            padding = (1, 1, above - (first - 1), last + 1 - below)
            return F.conv2d(F.pad(piece, padding), layer.conv.weight, layer.conv.bias)

        return self._joined(height, strip)

    def _moments(self, norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and offset (B, C, 1, 1) of the norm of a whole map, in float64.

        Strips are merged by Chan, Golub and LeVeque 1983: squares would cancel where a group hardly varies.
        """
        groups, count = norm.num_groups, 0
        mean = torch.zeros(len(x), groups, dtype=torch.float64, device=self.device)
        scatter = torch.zeros_like(mean)
        for first, last in self._spans(x.shape[2]):
            piece = x[:, :, first:last].to(self.device).double().unflatten(1, (groups, -1)).flatten(2)
            own, (variance, center) = piece.shape[-1], torch.var_mean(piece, -1, correction=0)
            shift, count = center - mean, count + own
            scatter += own * variance + shift.square() * (own * (count - own) / count)
            mean += shift * (own / count)
        scale = (scatter / count + norm.eps).rsqrt()
        each = x.shape[1] // groups
        factor = scale.repeat_interleave(each, 1) * norm.weight
        offset = norm.bias - mean.repeat_interleave(each, 1) * factor
        return factor[:, :, None, None].to(x.dtype), offset[:, :, None, None].to(x.dtype)

    def _joined(self, height: int, strip: Strip) -> Tensor:
        """The whole result in host memory."""
        whole: Tensor | None = None
        for first, last in self._spans(height):
            piece = strip(first, last)
            if whole is None:
                shape = (*piece.shape[:2], height, piece.shape[3])
                whole = torch.empty(shape, dtype=piece.dtype, device=HOST)
            whole[:, :, first:last] = piece.to(HOST)
        assert whole is not None
        return whole

    def _spans(self, height: int) -> Iterator[tuple[int, int]]:
        for first in range(0, height, self.rows):
            yield first, min(first + self.rows, height)


def check_no_gradient(network: nn.Module, x: Tensor) -> None:
    """Refuses strips where a gradient would have to go through them.

    Raises:
        UsageError: Says how to go without strips, or without gradients.
    """
    wanted = x.requires_grad or any(parameter.requires_grad for parameter in network.parameters())
    if torch.is_grad_enabled() and wanted:
        raise UsageError("cnn: strips give no gradients; use torch.no_grad(), or enable_tiling(None)")
