"""Flow matching on a frozen tokenizer's latents: a generator is one more objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.features import Losses, Tally
from vtp_core.objective import Objective
from vtp_core.parameters import Dims, ParamRule
from vtp_core.step import Step
from vtp_plugins.generation.classes import class_counts, class_shares, shown_classes
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator
from vtp_plugins.generation.loss import (
    between,
    cosine_error,
    default_shift,
    effective_shift,
    lognormal_times,
    squared_error,
    uniform_times,
    velocity_of,
)


class Generation(Objective):
    """Velocity of a transformer at random points of the paths from noise to latents.

    No gradient reaches the tokenizer. The latents' statistics are measured before step 0; the EMA copy is
    what is exported.

    Source:
        Yao et al. 2025 (LightningDiT), section 4; Zheng et al. 2025 (RAE), section 4.
    """

    config: GenerationConfig
    teachers = ("generator",)
    exports: Mapping[str, str] = {"generate": "generator"}
    exports_teacher = True

    def __init__(self, config: GenerationConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.calibration_rows = config.statistics_rows
        self.generator = FlowGenerator(config, dims.channels)

    def forward(self, step: Step) -> Losses:
        """The loss; logged: the mean squared error of the noisier and of the cleaner half of the times."""
        config = self.config
        z = step.tokenize(config.view).z.detach()
        x = self.generator.normalise(z.to(torch.promote_types(z.dtype, torch.float32)))
        if step.index == config.start:
            self._check_grid(x)
        noise, normal = step.randn(*x.shape).to(x), step.randn(len(x)).to(x)
        shift = config.shift or default_shift(x[0].numel())
        if config.times == "uniform":
            t = uniform_times(normal, shift)
        else:
            t = lognormal_times(normal, config.lognorm_mu, config.lognorm_sigma, shift)
        point = between(x, noise, t)
        label = shown_classes(step, config)
        out = step.call(self.generator, point, t, *([] if label is None else [label])).to(x.dtype)
        target = x - noise
        if config.prediction == "x":
            out, target = velocity_of(out, point, t), velocity_of(x, point, t)
        error = squared_error(out, target)
        terms = {"velocity": step.mean(error)}
        if config.cosine:
            terms["cosine"] = config.cosine * step.mean(cosine_error(out, target))
        noisy = (t < 0.5).to(error.dtype)
        halves = {"noisy": step.mean(error.detach(), noisy), "clean": step.mean(error.detach(), 1 - noisy)}
        return Losses(terms=terms, report=halves)

    def observe(self, step: Step) -> Tally:
        """Sums of the latents' channels, and how often each class was seen."""
        view, classes = self.config.view, self.config.classes
        z = step.tokenize(view).z.double()
        sums = {
            "batches": z.new_ones(1),
            "grid": z.new_tensor(z.shape[-2:]),
            "count": z.new_tensor([z.shape[0] * z.shape[2] * z.shape[3]]),
            "sum": z.sum((0, 2, 3)),
            "square": z.square().sum((0, 2, 3)),
        }
        if classes:
            sums["classes"] = class_counts(step, self.config)
        return Tally(sums=sums)

    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        """Fixes statistics, grid and shares of the classes for the whole run."""
        sums, own = tally.sums, self.generator
        mean = sums["sum"] / sums["count"]
        variance = sums["square"] / sums["count"] - mean.square()
        if not bool(variance.isfinite().all()):
            raise DataError("generation: the training latents are not finite; check the tokenizer's weights")
        own.mean.copy_(mean)
        # A channel that never changes is not blown up: its deviation counts as a thousandth of the largest.
        least = 1e-3 * variance.max().clamp(min=1e-24).sqrt()
        own.deviation.copy_(variance.clamp(min=0).sqrt().clamp(min=least))
        own.grid.copy_((sums["grid"] / sums["batches"]).round())
        if self.config.classes:
            own.frequency.copy_(class_shares(sums["classes"], self.config))

    def warnings(self) -> Sequence[str]:
        """A transformer that is narrower than a latent token; times that are far from the usual shift."""
        config = self.config
        lines = []
        token = self.dims.channels * config.transformer.patch**2
        if config.transformer.widest < token:
            lines.append(
                f"the transformer is {config.transformer.widest} wide, narrower than a latent token of "
                f"{token} numbers, which it can't learn then (RAE); widen it, or give it a head of that width"
            )
        numel = self.dims.channels * int(self.generator.grid.prod())
        usual = default_shift(numel)
        own = effective_shift(config.shift or usual, config.lognorm_mu if config.times == "lognorm" else 0.0)
        if numel and not usual / 2 <= own <= usual * 2:
            lines.append(
                f"shift and lognorm_mu together amount to a shift of {own:.3g}; usual is {usual:.3g}, the "
                f"square root of numel / 4096 (RAE) but at least 1, for latents of {numel} numbers"
            )
        return lines

    def rules(self) -> Sequence[ParamRule]:
        """No weight decay of the classes' embeddings."""
        return (ParamRule(pattern="generator.network.class_embed.weight", decay=0.0),)

    def _check_grid(self, x: Tensor) -> None:
        grid, here = self.generator.grid.tolist(), list(x.shape[-2:])
        if any(grid) and grid != here:
            raise DataError(
                f"generation: the statistics are those of latents of {grid[0]} x {grid[1]}, and view "
                f"{self.config.view} has {here[0]} x {here[1]}; list it in init_from.fresh to start over"
            )
