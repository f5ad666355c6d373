"""What is trained and exported: the transformer, the statistics of its latents, and how samples are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.config import Table
from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.ops import AttentionChoice
from vtp_plugins.generation.classes import drawn_classes
from vtp_plugins.generation.config import GenerationConfig, SamplingConfig
from vtp_plugins.generation.guidance import require_guidance
from vtp_plugins.generation.loss import default_shift, shifted, velocity_of
from vtp_plugins.generation.network import LightningDit
from vtp_plugins.generation.sampler import dopri5, euler, heun


class FlowGenerator(Generator):
    """A flow on normalised latents.

    Attributes:
        mean: (d,) of the training latents' channels.
        deviation: (d,).
        grid: (2,) int64, rows and columns of the training latents; 0 before calibration.
        frequency: (classes,) shares of the classes in the training data; uniform before calibration.
    """

    mean: Tensor
    deviation: Tensor
    grid: Tensor
    frequency: Tensor
    settings: SamplingConfig

    def __init__(self, config: GenerationConfig, channels: int) -> None:
        super().__init__()
        self.config, self.classes, self.settings = config, config.classes, config.sampling
        self.network = LightningDit(config.transformer, channels, config.classes)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("grid", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("frequency", torch.full((config.classes,), 1 / max(config.classes, 1)))

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks."""
        return self.network.blocks()

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use."""
        self.network.use_attention(implementation)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output for noisy normalised latents; see `LightningDit.forward`."""
        out: Tensor = self.network(x, t, label)
        return out

    def normalise(self, latent: Tensor) -> Tensor:
        """Latents (B, d, h, w) to zero mean and unit deviation of each channel."""
        mean, deviation = self._statistics(latent)
        return (latent - mean) / deviation

    def restore(self, x: Tensor) -> Tensor:
        """Normalised latents to latents."""
        mean, deviation = self._statistics(x)
        return x * deviation + mean

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, d, h, w) at normalised points and times (B,)."""
        out = self(x.to(self.mean.dtype), t, label).to(x.dtype)
        return out if self.config.prediction == "velocity" else velocity_of(out, x, t)

    def guided(
        self, x: Tensor, t: Tensor, label: Tensor, guidance: float, interval: tuple[float, float]
    ) -> Tensor:
        """Velocity with classifier-free guidance where a row's time lies in the interval.

        Args:
            x: (B, d, h, w).
            t: (B,).
            label: (B,) classes.
            guidance: w in v_none + w (v_class - v_none), on all channels.
            interval: First and last time at which it acts (Kynkaanniemi et al. 2024).
        """
        inside = ((t >= interval[0]) & (t <= interval[1])).nonzero()[:, 0]
        if guidance == 1 or not len(inside):
            return self.velocity(x, t, label)
        none = torch.full_like(inside, self.classes)
        both = self.velocity(torch.cat([x, x[inside]]), torch.cat([t, t[inside]]), torch.cat([label, none]))
        out, without = both[: len(x)], both[len(x) :]
        return out.index_copy(0, inside, without + guidance * (out[inside] - without))

    def with_settings(self, changes: Mapping[str, Any]) -> SamplingConfig:
        """The settings with changes by key.

        Raises:
            UsageError: There is no such key, the value is not valid, a change has no effect on samples, or
                the generator can't be guided.
        """
        chosen = super().with_settings(changes)
        assert isinstance(chosen, SamplingConfig)
        require_guidance(chosen.guidance, self.classes, self.config.drop_class)
        return chosen

    def unused(self, settings: Table) -> Mapping[str, str]:
        """What the sampler doesn't read, the interval of no guidance, and what acts on classes alone."""
        assert isinstance(settings, SamplingConfig)
        alone = {} if self.classes else {"balance": "without classes"}
        return {**settings.unused(), **alone}

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
        """Latents of samples; see `vtp_core.generator.Generator.generate`.

        Raises:
            UsageError: Another shape than the trained one, or guidance that it was not trained for.
        """
        chosen = settings or self.settings
        assert isinstance(chosen, SamplingConfig)
        self._check(shape, chosen)
        seeds = row_seeds(seed % 2**63, indices)
        noise = row_randn(seeds, *shape, dtype=self._working())
        label = self.draw_classes(seeds, chosen.balance) if classes is None else classes
        latent = self.restore(self.solve(noise, label if self.classes else None, chosen))
        return latent.to(self.mean.dtype)

    def describe(self, shape: tuple[int, int, int], settings: Table | None = None) -> Mapping[str, Any]:
        """The settings that the sampler reads, the shift as a number; guidance and balance only with classes.

        Raises:
            UsageError: Guidance that it was not trained for.
        """
        chosen = settings or self.settings
        assert isinstance(chosen, SamplingConfig)
        require_guidance(chosen.guidance, self.classes, self.config.drop_class)
        hidden = {*chosen.unused(), *(() if self.classes else ("guidance", "balance"))}
        stated = chosen.model_dump(mode="json", exclude=hidden)
        return stated | ({"shift": self._shift(chosen, math.prod(shape))} if "shift" in stated else {})

    def solve(self, noise: Tensor, label: Tensor | None, settings: SamplingConfig) -> Tensor:
        """Normalised latents (B, d, h, w) of noise, under classes (B,)."""

        def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            if label is None:
                return self.velocity(x, t)
            return self.guided(x, t, label[rows], settings.guidance, settings.interval)

        if settings.sampler == "dopri5":
            return dopri5(field, noise, rtol=settings.rtol, atol=settings.atol)
        grid = torch.linspace(0, 1, settings.steps + 1, dtype=torch.float64)
        times = shifted(grid, self._shift(settings, math.prod(noise.shape[1:]))).tolist()
        return (euler if settings.sampler == "euler" else heun)(field, noise, times)

    def draw_classes(self, seeds: Tensor, balance: str) -> Tensor:
        """(B,) classes of row seeds, as often as in the training data or uniform."""
        return drawn_classes(self.frequency, seeds, balance)

    def _check(self, shape: tuple[int, int, int], settings: SamplingConfig) -> None:
        trained = (len(self.mean), *self.grid.tolist())
        if not all(trained):
            raise UsageError("generate: this generator has no statistics of latents; train it with `vtp run`")
        if tuple(shape) != trained:
            raise UsageError(
                f"generate: trained on latents of {_times(trained)}, asked for {_times(shape)}; "
                "train a generator at that image size"
            )
        require_guidance(settings.guidance, self.classes, self.config.drop_class)

    def _shift(self, settings: SamplingConfig, numel: int) -> float:
        return settings.shift or self.config.shift or default_shift(numel)

    def _working(self) -> torch.dtype:
        return torch.float64 if self.mean.dtype == torch.float64 else torch.float32

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.to(like.dtype).view(-1, 1, 1), self.deviation.to(like.dtype).view(-1, 1, 1)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
