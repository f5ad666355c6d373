"""The likelihood of a frozen tokenizer's codes: a generator is one more objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.errors import DataError, UsageError
from vtp_core.features import Losses, Tally
from vtp_core.objective import Objective
from vtp_core.parameters import Dims, ParamRule
from vtp_core.step import Step
from vtp_plugins.generation.classes import class_counts, class_shares, shown_classes
from vtp_plugins.generation_ar.config import GenerationArConfig
from vtp_plugins.generation_ar.generator import CodeGenerator


class GenerationAr(Objective):
    """Mean negative log-likelihood of a code, in nats. The EMA copy is what is exported.

    Source:
        Sun et al. 2024 (LlamaGen); several codes a position as residual codes are predicted (Lee et al. 2022,
        section 3.2), with a small network in the place of a depth transformer.
    """

    config: GenerationArConfig
    teachers = ("generator",)
    exports: Mapping[str, str] = {"generate": "generator"}
    exports_teacher = True

    def __init__(self, config: GenerationArConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        if not dims.codebook_sizes:
            raise UsageError(
                "generation_ar: the tokenizer's latent is continuous and has no codes; use the objective "
                "generation, or a bottleneck with a codebook"
            )
        self.calibration_rows = config.statistics_rows
        self.generator = CodeGenerator(config, dims.codebook_sizes)

    def forward(self, step: Step) -> Losses:
        """The loss; logged: that of each codebook."""
        config = self.config
        codes = self._codes(step)
        if step.index == config.start:
            self._check_grid(codes)
        label = shown_classes(step, config)
        if label is None:
            label = codes.new_zeros(len(codes))
        losses = step.call(self.generator, codes, label)
        each = {f"codebook_{q}": step.mean(losses.detach()[:, q]) for q in range(losses.shape[1])}
        return Losses(terms={"nll": step.mean(losses)}, report=each if len(each) > 1 else {})

    def observe(self, step: Step) -> Tally:
        """The codes' grid, and how often each class was seen."""
        codes = self._codes(step)
        grid = torch.tensor(codes.shape[-2:], dtype=torch.float64, device=codes.device)
        sums = {"batches": grid.new_ones(1), "grid": grid}
        if self.config.classes:
            sums["classes"] = class_counts(step, self.config)
        return Tally(sums=sums)

    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        """Fixes grid and shares of the classes for the whole run."""
        sums, own = tally.sums, self.generator
        own.grid.copy_((sums["grid"] / sums["batches"]).round())
        if self.config.classes:
            own.frequency.copy_(class_shares(sums["classes"], self.config))

    def rules(self) -> Sequence[ParamRule]:
        """No weight decay of embeddings."""
        return (ParamRule(pattern="*embed*", decay=0.0),)

    def _codes(self, step: Step) -> Tensor:
        """(B, Q, h, w) int64."""
        codes = step.tokenize(self.config.view).codes
        assert codes is not None, "a bottleneck with codebook sizes gives codes"
        return codes["global"][:, 0]

    def _check_grid(self, codes: Tensor) -> None:
        grid, here = self.generator.grid.tolist(), list(codes.shape[-2:])
        if any(grid) and grid != here:
            raise DataError(
                f"generation_ar: the generator was trained on {grid[0]} x {grid[1]} codes, and view "
                f"{self.config.view} has {here[0]} x {here[1]}; let the objective start fresh "
                "(init_from.fresh)"
            )
