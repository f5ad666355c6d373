"""A plugin of one file: a source of cached latents of 1 x 1, two moons; loaded with ``--plugin``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from sklearn.datasets import make_moons

import vtp_core as vtp

vtp_api = 2


class MoonsConfig(vtp.SourceConfig):
    use: str = "moons.moons"
    seed: int = 0
    """Of the points."""
    count: int = 4000
    """Number of points."""

    def offers(self) -> frozenset[str]:
        return frozenset({"latent", "label"})


class Moons:
    """Points of two moons far from the origin; the label says which moon."""

    fields = frozenset({"latent", "label"})
    classes: Sequence[str] = ("upper", "lower")

    def __init__(self, config: MoonsConfig, limits: Any) -> None:
        points, self.labels = make_moons(config.count, noise=0.03, random_state=config.seed)
        self.latents = (points * [3.0, 0.5] + [10.0, -2.0]).astype(numpy.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, fields: frozenset[str]) -> vtp.Sample:
        latent = self.latents[index].reshape(2, 1, 1)
        return vtp.Sample(key=str(index), latent=latent, label=int(self.labels[index]))


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    register("moons", Moons, config=MoonsConfig, summary="Two moons as latents.")
