"""Product quantisation: channel groups, each with a quantiser of its own (UniTok's multi-codebook)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from vtp_core.features import Tally
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.quantizer import Quantized, Quantizer

T = TypeVar("T")


class ProductQuantizer(Quantizer):
    """Quantisers of consecutive channel groups; codes and codebooks are joined in order.

    Args:
        parts: The quantisers.
        names: Their names in logs and tallies; default: 0, 1, ...
    """

    def __init__(self, parts: Sequence[Quantizer], names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.names = tuple(names or (str(number) for number in range(len(parts))))
        self.widths = [part.dim for part in parts]
        self.dim = sum(self.widths)
        self.codebook_sizes = tuple(size for part in parts for size in part.codebook_sizes)
        self.samples = any(part.samples for part in parts)
        for name, part in zip(self.names, parts, strict=True):
            for meters in part.modules():
                if isinstance(meters, Meters):
                    meters.name = meters.name.replace("codebook", f"codebook {name}", 1)

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim)."""
        found: list[Quantized] = [
            part(piece) for part, piece in zip(self.parts, x.split(self.widths, -1), strict=True)
        ]
        return Quantized(
            vectors=torch.cat([each.vectors for each in found], -1),
            codes=torch.cat([each.codes for each in found], -1),
            aux=self._named([each.aux for each in found]),
            tally=Tally(
                sums=self._named([each.tally.sums for each in found]),
                rows=self._named([each.tally.rows for each in found]),
                moments=self._named([each.tally.moments for each in found]),
            ),
            report=self._named([each.report for each in found]),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., Q)."""
        counts = [len(part.codebook_sizes) for part in self._quantizers()]
        pieces = codes.split(counts, -1)
        return torch.cat([p.lookup(c) for p, c in zip(self._quantizers(), pieces, strict=True)], -1)

    def initialise(self, vectors: Tensor) -> None:
        """Each group from its channels."""
        for part, piece in zip(self._quantizers(), vectors.split(self.widths, -1), strict=True):
            part.initialise(piece)

    def before_step(self, steps: range) -> None:
        """Each group alike."""
        for part in self._quantizers():
            part.before_step(steps)

    def after_step(self, tally: Tally, index: int) -> None:
        """Each group with its part of the tally."""
        for name, part in zip(self.names, self._quantizers(), strict=True):
            own = Tally(
                sums=_below(tally.sums, name),
                rows=_below(tally.rows, name),
                moments=_below(tally.moments, name),
            )
            part.after_step(own, index)

    def _quantizers(self) -> list[Quantizer]:
        return [part for part in self.parts if isinstance(part, Quantizer)]

    def _named(self, each: Sequence[Mapping[str, T]]) -> dict[str, T]:
        return {
            f"{name}.{key}": value
            for name, values in zip(self.names, each, strict=True)
            for key, value in values.items()
        }


def _below(values: Mapping[str, T], name: str) -> dict[str, T]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
