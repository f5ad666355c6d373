"""What is trained and exported: the transformer, the grid of its codes, and how samples are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.config import Table
from vtp_core.errors import NumericError, UsageError
from vtp_core.generator import Generator
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_core.ops import AttentionChoice
from vtp_plugins.generation.classes import drawn_classes
from vtp_plugins.generation.guidance import require_guidance
from vtp_plugins.generation_ar.config import CodeSamplingConfig, GenerationArConfig
from vtp_plugins.generation_ar.network import CodeTransformer
from vtp_plugins.generation_ar.sampling import draw_codes

ROWS = 16
"""Samples that are made at a time. A matrix product of another number of rows may round otherwise, and one
other code changes all that follow: fewer samples are padded to this number."""


class CodeGenerator(Generator):
    """A transformer on codes.

    Attributes:
        grid: (2,) int64, rows and columns of the training codes; 0 before calibration.
        frequency: (classes,) shares of the classes in the training data; uniform before calibration.
    """

    grid: Tensor
    frequency: Tensor
    settings: CodeSamplingConfig

    def __init__(self, config: GenerationArConfig, sizes: Sequence[int]) -> None:
        super().__init__()
        self.classes, self.drop_class, self.settings = config.classes, config.drop_class, config.sampling
        self.network = CodeTransformer(config.transformer, sizes, config.classes)
        self.register_buffer("grid", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("frequency", torch.full((config.classes,), 1 / max(config.classes, 1)))

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks."""
        return self.network.blocks()

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use."""
        self.network.use_attention(implementation)

    def forward(self, codes: Tensor, label: Tensor) -> Tensor:
        """Negative log-likelihoods; see `CodeTransformer.forward`."""
        out: Tensor = self.network(codes, label)
        return out

    def with_settings(self, changes: Mapping[str, Any]) -> CodeSamplingConfig:
        """The settings with changes by key.

        Raises:
            UsageError: There is no such key, the value is not valid, or the generator can't be guided.
        """
        chosen = super().with_settings(changes)
        assert isinstance(chosen, CodeSamplingConfig)
        require_guidance(chosen.guidance, self.classes, self.drop_class)
        return chosen

    def unused(self, settings: Table) -> Mapping[str, str]:
        """What acts on classes alone."""
        return {} if self.classes else {"balance": "without classes"}

    @torch.no_grad()
    def generate(
        self,
        indices: Tensor,
        seed: int,
        shape: tuple[int, int, int],
        *,
        classes: Tensor | None = None,
        settings: Table | None = None,
    ) -> Tensor:
        """Codes (B, Q, h, w) of samples; see `vtp_core.generator.Generator.generate`.

        Raises:
            UsageError: Another grid than the trained one, or guidance that it was not trained for.
            NumericError: A logit is not finite.
        """
        chosen = settings or self.settings
        assert isinstance(chosen, CodeSamplingConfig)
        grid = self._grid(shape)
        require_guidance(chosen.guidance, self.classes, self.drop_class)
        seeds = row_seeds(seed % 2**63, indices)
        label = drawn_classes(self.frequency, seeds, chosen.balance) if classes is None else classes
        if not len(seeds):
            return seeds.new_zeros(0, len(self.network.sizes), *grid)
        parts = [
            self._drawn(some, under, grid, chosen)
            for some, under in zip(seeds.split(ROWS), label.split(ROWS), strict=True)
        ]
        return torch.cat(parts)

    def describe(self, shape: tuple[int, int, int], settings: Table | None = None) -> Mapping[str, Any]:
        """How codes are drawn and, with classes, guidance and how classes are drawn.

        Raises:
            UsageError: Guidance that it was not trained for.
        """
        chosen = settings or self.settings
        assert isinstance(chosen, CodeSamplingConfig)
        require_guidance(chosen.guidance, self.classes, self.drop_class)
        found: dict[str, Any] = {"temperature": chosen.temperature, "top_k": chosen.top_k or "all"}
        return {**found, "guidance": chosen.guidance, "balance": chosen.balance} if self.classes else found

    def _drawn(
        self, seeds: Tensor, label: Tensor, grid: tuple[int, int], settings: CodeSamplingConfig
    ) -> Tensor:
        """Codes (B, Q, h, w) of at most `ROWS` samples."""
        wanted = len(seeds)
        filled = torch.arange(ROWS, device=seeds.device).clamp(max=wanted - 1)
        seeds, label = seeds[filled], label[filled]
        guided = settings.guidance != 1
        under = torch.cat([label, torch.full_like(label, self.classes)]) if guided else label
        decoding = self.network.start(len(under), grid, under)
        count, codebooks = grid[0] * grid[1], len(self.network.sizes)
        numbers = row_rand(seeds, count, codebooks, draw=2, dtype=torch.float64)
        found: list[Tensor] = []
        finite = torch.ones((), dtype=torch.bool, device=seeds.device)
        for n in range(count):
            output = decoding.output()
            codes: list[Tensor] = []
            for q, head in enumerate(self.network.head):
                logits = head(output, codes)
                if guided:
                    with_class, without = logits.chunk(2)
                    logits = without + settings.guidance * (with_class - without)
                finite &= logits.isfinite().all()
                drawn = draw_codes(logits, numbers[:, n, q], settings.temperature, settings.top_k)
                codes.append(drawn.repeat(2) if guided else drawn)
            found.append(torch.stack(codes, 1)[:wanted])
            decoding.add(codes)
        if not bool(finite):
            raise NumericError(
                "generate: logits of codes are not finite; the weights are broken or guidance is too large"
            )
        return torch.stack(found, 2).unflatten(2, grid)

    def _grid(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        rows, columns = self.grid.tolist()
        if not rows:
            raise UsageError("generate: this generator has no grid of codes; train it with `vtp run`")
        if shape[1:] != (rows, columns):
            raise UsageError(
                f"generate: trained on codes of {rows} x {columns} positions, asked for "
                f"{shape[1]} x {shape[2]}; train a generator at that image size"
            )
        return rows, columns
