"""The proxy: the objective `generation` on latents in memory, one process, no run folder."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.errors import NumericError
from vtp_core.evaluation.progress import Show, silent
from vtp_core.features import Latent, Tally
from vtp_core.math.row_noise import row_rand, row_randn, row_seeds
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.generation.config import GenerationConfig, SamplingConfig, TransformerConfig
from vtp_plugins.generation.objective import Generation
from vtp_plugins.probe_gen.config import ProbeSettings
from vtp_plugins.probe_gen.latents import Latents

ABOUT = (
    "LightningDiT of patch 1, velocity and cosine loss, lognormal times (0, 1) shifted by sqrt(numel / 4096) "
    "or 1, weights averaged by (1 + k) / (10 + k)"
)
VIEW = "latents"
CHUNK = 256
"""Latents of a batch of the statistics."""


class Proxy:
    """A generator of a tokenizer's latents.

    All that is drawn is a function of the seed, the step and the row: tokenizers of the same images see the
    same images in the same order, at the same times.

    Attributes:
        loss: Mean loss of the last tenth of the steps.
        parameters: Number of trained parameters.
        notes: Settings that are known to work badly for these latents.
    """

    def __init__(self, latents: Latents, settings: ProbeSettings, seed: int) -> None:
        self._latents, self._settings, self._seed = latents, settings, seed
        self.loss = math.nan
        with torch.random.fork_rng(devices=[]):
            # On the CPU alone: during a run a device's generator is not ours to seed.
            torch.default_generator.manual_seed(seed)
            self._objective = Generation(_config(latents, settings), _dims(latents))
        self._objective.to(latents.maps.device)
        self._objective.calibrate(self._statistics())
        self._average = copy.deepcopy(self._objective.generator).requires_grad_(False).eval()
        self.notes = tuple(self._objective.warnings())
        self.parameters = sum(weight.numel() for weight in self._objective.parameters())

    def train(self, points: Sequence[int], show: Show = silent) -> Iterator[int]:
        """Trains and stops after each number of steps in `points`, ascending, for samples to be made.

        Raises:
            NumericError: A loss is not finite.
        """
        settings = self._settings
        optimizer = torch.optim.AdamW(
            self._objective.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        losses: list[float] = []
        for start, end in zip((0, *points), points, strict=False):
            title = f"training the proxy, seed {self._seed}, steps {start} to {end}"
            with show(title, (end - start) * settings.rows) as advance:
                for index in range(start, end):
                    for group in optimizer.param_groups:
                        group["lr"] = settings.lr * min(1.0, (index + 1) / max(settings.warmup, 1))
                    losses.append(self._update(index, optimizer))
                    advance(settings.rows)
            recent = losses[-max(1, end // 10) :]
            self.loss = sum(recent) / len(recent)
            yield end

    def samples(self, indices: Tensor) -> Tensor:
        """Latents (B, d, h, w) of the averaged weights, by index; classes as frequent as in the images."""
        sampling = SamplingConfig(sampler="euler", steps=self._settings.euler_steps)
        with self._autocast():
            return self._average.generate(indices, self._seed, self._shape, settings=sampling)

    def gaussian(self, indices: Tensor) -> Tensor:
        """Latents (B, d, h, w) of normal numbers with the mean and the deviation of each channel."""
        return self._average.restore(row_randn(row_seeds(self._seed, indices), *self._shape))

    @property
    def _shape(self) -> tuple[int, int, int]:
        channels, rows, columns = self._latents.maps.shape[1:]
        return channels, rows, columns

    def _update(self, index: int, optimizer: torch.optim.Optimizer) -> float:
        step = MemoryStep(self._latents, self._settings.rows, self._seed, index)
        with self._autocast():
            total = self._objective(cast(Step, step)).total()
        if not math.isfinite(loss := float(total.detach())):
            raise NumericError(f"probe-gen: the loss is {loss} at step {index}; lower lr")
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self._objective.parameters(), 1.0)
        optimizer.step()
        own = self._objective.generator.parameters()
        with torch.no_grad():
            for average, weight in zip(self._average.parameters(), own, strict=True):
                average.lerp_(weight, 9 / (10 + index))
        return loss

    @torch.no_grad()
    def _statistics(self) -> Tally:
        """What `Generation.observe` sums over all latents."""
        sums: dict[str, Tensor] = {}
        for rows in torch.arange(len(self._latents.maps)).split(CHUNK):
            step = MemoryStep(self._latents, len(rows), self._seed, 0, rows.to(self._latents.maps.device))
            for name, value in self._objective.observe(cast(Step, step)).sums.items():
                sums[name] = sums[name] + value if name in sums else value
        return Tally(sums=sums)

    def _autocast(self) -> torch.autocast:
        enabled = self._settings.precision == "bfloat16"
        return torch.autocast(self._latents.maps.device.type, dtype=torch.bfloat16, enabled=enabled)


class MemoryStep:
    """The verbs of `vtp_core.step.Step` that `Generation` uses, on latents in memory and one process.

    Args:
        latents: All of them.
        rows: Rows of the step.
        seed: Seed of all that is drawn.
        index: The step.
        chosen: (B,) int64, which latents are its rows; None: drawn.
    """

    def __init__(
        self, latents: Latents, rows: int, seed: int, index: int, chosen: Tensor | None = None
    ) -> None:
        self.index = index
        numbers = torch.arange(index * rows, (index + 1) * rows, device=latents.maps.device)
        self._seeds = row_seeds(seed, numbers)
        self._draws = 0
        if chosen is None:
            # float64: the multiples of 2^-24 are exact, and none rounds up to the number of latents.
            chosen = (self.rand(rows).double() * len(latents.maps)).long()
        self._maps = latents.maps[chosen]
        self._labels = None if latents.labels is None else latents.labels[chosen]

    def batch(self, view: str) -> Batch:
        """The labels."""
        return Batch(crops={}, keys=(), label=self._labels)

    def tokenize(self, view: str) -> Latent:
        """The latents."""
        return Latent.of_map(self._maps)

    def call(self, module: torch.nn.Module, *rows: Tensor) -> Tensor:
        """The module's output."""
        out: Tensor = module(*rows)
        return out

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """The (weighted) mean; 0 if all weights are 0."""
        if weights is None:
            return values.mean()
        return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def randn(self, rows: int, *shape: int) -> Tensor:
        """Standard normal (rows, *shape), by row."""
        self._draws += 1
        return row_randn(self._seeds, *shape, draw=self._draws)

    def rand(self, rows: int, *shape: int) -> Tensor:
        """Uniform in [0, 1), (rows, *shape), by row."""
        self._draws += 1
        return row_rand(self._seeds, *shape, draw=self._draws)


def _config(latents: Latents, settings: ProbeSettings) -> GenerationConfig:
    # Without guidance a hidden class has no use.
    transformer = TransformerConfig(width=settings.width, depth=settings.depth, heads=settings.heads)
    return GenerationConfig(
        use="generation", view=VIEW, classes=latents.classes, drop_class=0.0, transformer=transformer
    )


def _dims(latents: Latents) -> Dims:
    return Dims(width=1, patch=1, depth=1, has_cls=False, channels=latents.maps.shape[1])
