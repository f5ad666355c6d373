"""A plugin of one file: an objective that exports a generator, and an evaluator of what it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

import vtp_core as vtp

vtp_api = 2


class Generator(nn.Module):
    """Latents that are noise by (seed, index), times a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.asked: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def generate(self, indices: Tensor, seed: int, shape: tuple[int, int, int]) -> Tensor:
        self.asked.append(indices.tolist())
        noise = [
            torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + index))
            for index in indices.tolist()
        ]
        return self(torch.stack(noise))


class GeneratorConfig(vtp.ObjectiveConfig):
    use: str = "generates.generator"
    """This objective."""
    view: str = "rec"
    """View whose latents it is fitted to."""

    def views(self) -> Mapping[str, vtp.ViewNeed]:
        return {self.view: vtp.ViewNeed()}


class FitGenerator(vtp.Objective):
    """Learns the scale of the latents."""

    Config = GeneratorConfig
    exports = {"generate": "generator"}
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig, dims: vtp.Dims) -> None:
        super().__init__(config, dims)
        self.generator = Generator()

    def forward(self, step) -> vtp.Losses:
        z = step.tokenize(self.config.view).z.detach()
        return vtp.Losses(
            terms={"scale": step.mean((step.call(self.generator, torch.ones_like(z)) - z) ** 2)}
        )


class GeneratedMeanConfig(vtp.ComponentConfig):
    use: str = "generates.mean"
    """This evaluator."""
    samples: Annotated[int, Field(gt=0)] = 7
    """Samples to generate."""
    seed: int = 0
    """Their seed."""


class GeneratedMean(vtp.Evaluator):
    """Mean and spread of generated latents and images."""

    requires = frozenset({"decode", "generate"})
    uses_held_out = False
    metrics = {"latent_mean": vtp.Metric(title="Mean of generated latents")}
    config: GeneratedMeanConfig

    @property
    def protocol(self) -> str:
        return "generated-mean-v1"

    @property
    def generated(self) -> vtp.GeneratedPass:
        return vtp.GeneratedPass(samples=self.config.samples, seed=self.config.seed)

    def begin(self, model: vtp.Tokenizer, classes: Sequence[str]) -> None:
        assert not classes
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._rows = [torch.zeros(0, dtype=torch.float64)]

    def update_generated(self, seen: vtp.GeneratedBatch) -> None:
        assert not torch.is_grad_enabled() and not seen.model.training
        latent, image = seen.latent.double(), seen.image.double()
        self._sums += torch.stack([latent.sum(), latent.square().sum(), image.sum()])
        self._rows.append(latent.flatten(1).mean(1))

    def state(self) -> vtp.Tally:
        return vtp.Tally(sums={"sums": self._sums}, rows={"means": torch.cat(self._rows)})

    def compute(self, state: vtp.Tally) -> Mapping[str, vtp.Score]:
        total, squares, pixels = state.sums["sums"].tolist()
        means = state.rows["means"].sort().values
        assert len(means) == self.config.samples
        middle = means[len(means) // 2].item()
        return {
            "latent_mean": vtp.Score(
                value=total, also={"squares": squares, "pixels": pixels, "middle": middle}
            )
        }


@vtp.hookimpl
def register_objectives(register) -> None:
    register("generator", f"{__name__}:FitGenerator", config=f"{__name__}:GeneratorConfig", summary="Toy.")


@vtp.hookimpl
def register_evaluators(register) -> None:
    register("mean", f"{__name__}:GeneratedMean", config=f"{__name__}:GeneratedMeanConfig", summary="Toy.")
