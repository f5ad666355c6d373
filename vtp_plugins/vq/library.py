"""Residual quantisers of vector-quantize-pytorch (extra ``vq-library``).

The library's modules hold the codes, under the library's names. Its `forward` is called where it rounds. Its
search holds a table of all vectors and codes and waits for the device; `nearest_code` takes its place.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.features import Tally
from vtp_core.ops import straight_through
from vtp_core.ops.nearest_code_choice import SearchChoice
from vtp_plugins.vq.config import ResidualFsqConfig, ResidualSimVqConfig, ResidualVqConfig
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.quantizer import (
    Quantized,
    Quantizer,
    count_codes,
    finite,
    mean_square,
    nearest,
    pick,
    wide,
    with_gradient,
)


class ResidualQuantizer(Quantizer):
    """The sum of Q codes, each of what the earlier ones left (Zeghidour et al., 2107.03312, algorithm 1)."""

    def __init__(self, dim: int, sizes: tuple[int, ...], *, window: int, alarm: float) -> None:
        super().__init__()
        self.dim, self.codebook_sizes = dim, sizes
        self.meters = nn.ModuleList(
            Meters(size, window=window, alarm=alarm, name=f"codebook {stage}")
            for stage, size in enumerate(sizes)
        )

    def tables(self) -> list[Tensor]:
        """The codes (K, dim) of each stage, with their gradient."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., Q)."""
        with torch.autocast(codes.device.type, enabled=False):
            first, *rest = (
                pick(table, index) for table, index in zip(self.tables(), codes.unbind(-1), strict=True)
            )
            return sum(rest, first)

    def counted(self, codes: Tensor) -> Tally:
        """How often each code of each stage is in (N, Q), in training."""
        if not self.training:
            return Tally()
        books = zip(codes.unbind(-1), self.codebook_sizes, strict=True)
        return Tally(sums={f"{stage}.counts": count_codes(*book) for stage, book in enumerate(books)})

    def report(self) -> dict[str, Tensor]:
        """What the meters of all stages say."""
        found = ((stage, meters.report()) for stage, meters in enumerate(self._each()))
        return {f"{stage}.{key}": value for stage, report in found for key, value in report.items()}

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the meters; what is trained, the optimiser trains."""
        for stage, meters in enumerate(self._each()):
            meters.update(tally.sums[f"{stage}.counts"].float(), index)

    def _each(self) -> list[Meters]:
        return [meters for meters in self.meters if isinstance(meters, Meters)]


class ResidualCodebooks(ResidualQuantizer):
    """`ResidualVQ` with a trained codebook a stage, or `ResidualSimVQ`."""

    def __init__(self, config: ResidualVqConfig | ResidualSimVqConfig, dim: int) -> None:
        sizes = (config.codes,) * config.stages
        super().__init__(dim, sizes, window=config.window, alarm=config.alarm)
        self.config = config
        self._search: SearchChoice | None = None
        learned = {"learnable_codebook": True, "ema_update": False, "sync_codebook": False}
        self.module = _library_class(config.name)(
            dim=dim,
            num_quantizers=config.stages,
            codebook_size=config.codes,
            **(learned if isinstance(config, ResidualVqConfig) else {}),
        )

    def use_nearest_code(self, choice: SearchChoice) -> None:
        """Searches with the run's implementation."""
        self._search = choice

    def tables(self) -> list[Tensor]:
        """The codebooks; of SimVQ the transformed ones."""
        return [layer.codebook for layer in self.module.layers]

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim). Losses are sums over the stages of means over vectors and channels."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            valid, found = finite(x), []
            left, total = x.detach(), torch.zeros_like(x)
            pulled = commitment = x.new_zeros(())
            for table in self.tables():
                table = table.to(x.dtype)
                index = nearest(left, table.detach(), self._search)
                code = pick(table, index)
                pulled = pulled + mean_square(left - code, valid)
                left, total = left - code.detach(), total + code.detach()
                commitment = commitment + mean_square(x - total, valid)
                found.append(index)
            codes = torch.stack(found, -1)
            return Quantized(
                vectors=with_gradient(x, total, self.config.through),
                codes=codes,
                aux={
                    "codebook": self.config.codebook * pulled,
                    "commitment": self.config.commitment * commitment,
                },
                tally=self.counted(codes),
                report={"error": mean_square(left, valid), **self.report()},
            )

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Codes of each stage from what the earlier ones leave of the data; those of SimVQ stay random."""
        if self.config.initialise == "random":
            return
        make = kmeans if self.config.initialise == "kmeans" else data_rows
        left = wide(vectors)
        for layer in self.module.layers:
            layer.codebook = make(left, self.config.codes)
            table = layer.codebook.to(left.dtype)
            left = left - pick(table, nearest(left, table, self._search))


class ResidualLevels(ResidualQuantizer):
    """`ResidualFSQ`: rounds each channel, then what is left, in finer and finer steps. Trains nothing."""

    def __init__(self, config: ResidualFsqConfig) -> None:
        levels = list(config.levels)
        with torch.device("cpu"):  # it reads values while it is built
            module: Any = _library_class(config.name)(levels=levels, num_quantizers=config.stages)
        sizes = (module.codebook_size,) * config.stages
        super().__init__(len(levels), sizes, window=config.window, alarm=config.alarm)
        self.module = module.to(torch.get_default_device())

    def tables(self) -> list[Tensor]:
        """The values of all codes, in the scale of each stage."""
        pairs = zip(self.module.layers, self.module.scales, strict=True)
        return [layer.implicit_codebook * scale for layer, scale in pairs]

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim); the gradient is the library's, straight through the rounding of each stage."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            valid = finite(x)[:, None]
            rounded, index = self.module(torch.where(valid, x, 0)[None])
            codes = torch.where(valid, index[0].long(), -1)
            return Quantized(
                vectors=straight_through(rounded[0], self.lookup(codes).to(x.dtype)),
                codes=codes,
                tally=self.counted(codes),
                report=self.report(),
            )


def _library_class(name: str) -> Any:
    """A class of the library.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return getattr(importlib.import_module("vector_quantize_pytorch"), name)
    except ImportError as error:
        raise ValueError(
            f"quantizer {name} needs vector-quantize-pytorch ({error}): pip install 'vtp-core[vq-library]'"
        ) from None
