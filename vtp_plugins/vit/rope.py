"""2-D axial rotary positions: where a patch lies, as angles by which queries and keys are turned.

Half of the channel pairs turn with the row, half with the column. Coordinates are patch centers mapped to
[-1, 1], each side on its own, so a grid of any shape spans the same range; periods rise geometrically from 1
to the base. With d channels a head: d/4 periods, angles [row (d/4), column (d/4)] laid out twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vtp_core.ops import Rope
from vtp_plugins.vit.config import RopeDtype


class AxialRope(nn.Module):
    """Makes the tables of a grid of patches.

    Every step is computed in `dtype`: in bfloat16 that moves the features of a tiny model by up to 9e-2, so
    weights trained with one dtype need it ever after.

    Attributes:
        periods: (d / 4,) buffer in `dtype`, part of the state dict; None without `saved`.
    """

    periods: Tensor | None

    def __init__(self, head_width: int, *, base: float, dtype: RopeDtype, saved: bool) -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.head_width = head_width
        self.base = base
        # Without a buffer neither a cast of the whole model nor `to_empty` can damage the periods.
        self.register_buffer("periods", torch.empty(head_width // 4, dtype=self.dtype) if saved else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the buffer of periods, if there is one."""
        if self.periods is not None:
            self.periods.copy_(self._make_periods(self.dtype))

    def _make_periods(self, dtype: torch.dtype) -> Tensor:
        """(d / 4,), on the CPU, whose rounding is the published weights'."""
        exponents = 2 * torch.arange(self.head_width // 4, dtype=dtype) / (self.head_width // 2)
        return torch.tensor(self.base, dtype=dtype) ** exponents

    def forward(self, grid: tuple[int, int], like: Tensor) -> Rope:
        """Tables of h * w patches, row-major.

        Args:
            grid: Rows and columns of patches.
            like: Gives the device; if it is float64, float32 tables become float64 ones.

        Returns:
            Cosines and sines, each (h * w, d).
        """
        dtype = torch.float64 if (like.dtype, self.dtype) == (torch.float64, torch.float32) else self.dtype
        with torch.no_grad():
            periods = self._make_periods(dtype) if self.periods is None else self.periods
            # Not blocking: a copy to a GPU that waits would stop the host in every forward.
            periods = periods.to(device=like.device, dtype=dtype, non_blocking=True)
            sides = (torch.arange(0.5, side, dtype=dtype, device=like.device) / side for side in grid)
            centers = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
            angles = 2 * math.pi * (2 * centers - 1)[:, :, None] / periods
            angles = angles.flatten(1).repeat(1, 2)
            return Rope(angles.cos(), angles.sin())
