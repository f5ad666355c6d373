"""Settings of the evaluators `frechet` and `frechet_generated`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig

Network = Annotated[str, Field(pattern=r"^timm:[A-Za-z0-9_.]+$")]
MetricName = Literal["frechet", "kernel", "precision_recall"]


class FrechetConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "frechet"``."""

    use: Literal["frechet"] = "frechet"
    """This evaluator."""
    network: Network | Annotated[tuple[Network, ...], Field(min_length=1)] = "timm:tf_efficientnet_lite0"
    """``timm:<name>``: a network of timm, whose pooled features are compared; or several, for one pass."""
    weights: str | Mapping[str, str] | None = None
    """File with the network's weights, or network -> file; by default an installed package, else the hub.
    ``"random"`` is an untrained network for tests, whose distances mean nothing."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels to which images are resized first; by default the network's own input size."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet",)
    """What is measured. `kernel` and `precision_recall` compare all pairs of images."""
    allow_fewer: bool = False
    """Measure with fewer images than a covariance of the features needs; the protocol says so."""

    @model_validator(mode="after")
    def _weights_are_of_networks(self) -> FrechetConfig:
        names = self.networks
        if len(set(names)) < len(names):
            raise ValueError("network lists a network twice")
        if isinstance(self.weights, str) and self.weights != "random" and len(names) > 1:
            raise ValueError("weights is one file and network lists several; give { network = file }")
        if isinstance(self.weights, Mapping) and (unknown := set(self.weights) - set(names)):
            raise ValueError(f"weights names {sorted(unknown)[0]!r}, which is not in network")
        return self

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks."""
        return (self.network,) if isinstance(self.network, str) else self.network

    def weights_of(self, network: str) -> str | None:
        """The weights of a network: a file, ``"random"``, or None to search for them."""
        return self.weights.get(network) if isinstance(self.weights, Mapping) else self.weights


class FrechetGeneratedConfig(FrechetConfig):
    """A table ``[evaluators.NAME]`` with ``use = "frechet_generated"``."""

    use: Literal["frechet_generated"] = "frechet_generated"  # type: ignore[assignment]
    """This evaluator."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet", "kernel")
    """What is measured. `kernel` and `precision_recall` compare all pairs of images."""
    samples: Annotated[int, Field(ge=16)] = 2048
    """Samples to generate."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all samples."""
    reference: Literal["train", "held_out"] = "train"
    """Images to compare with."""
    floor: bool = True
    """Also measure the distance between training set and held-out set, which a generator can hardly beat."""
