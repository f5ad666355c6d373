"""Settings of the evaluators `frechet` and `frechet_generated`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import EvaluatorConfig, GeneratedEvaluatorConfig
from vtp_plugins.evaluate_frechet.protocols import INCEPTIONS, PROTOCOLS, FidProtocol

Network = Annotated[
    str, Field(pattern=r"^(timm:[A-Za-z0-9_.]+|inception-v3-compat|inception-v3-pytorch-fid)$")
]
MetricName = Literal["frechet", "kernel", "precision_recall"]
STATISTICS = (".npz", ".safetensors")
"""Endings of files of saved statistics."""


class FrechetConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "frechet"``."""

    of_samples: ClassVar[bool] = False
    protocols = {name: {"protocol": name} for name, one in PROTOCOLS.items() if not one.generated}

    use: Literal["frechet"] = "frechet"
    """This evaluator."""
    protocol: str | None = None
    """A named protocol, which fixes network, metrics, crop, rounding, precision and number of images;
    docs/evaluation.md lists them."""
    network: Network | Annotated[tuple[Network, ...], Field(min_length=1)] = "timm:tf_efficientnet_lite0"
    """``timm:<name>``: a network of timm, whose pooled features are compared; ``inception-v3-compat`` and
    ``inception-v3-pytorch-fid``: the network of FID as torch-fidelity and as pytorch-fid feed it. Or several,
    for one pass."""
    weights: str | Mapping[str, str] | None = None
    """File with the network's weights, or network -> file; by default an installed package, else the hub.
    ``"random"`` is an untrained network for tests, whose distances mean nothing."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels to which images are resized first; by default the network's own input size."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet",)
    """What is measured. `kernel` and `precision_recall` compare all pairs of images."""
    allow_fewer: bool = False
    """Measure with fewer images than a covariance of the features needs; the protocol says so."""
    force: bool = False
    """Measure other images, or samples made in another way, than the named protocol's; the metric's name is
    marked."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.protocol is not None:
            self._fits_protocol()
        elif self.force:
            raise ValueError("force needs a protocol to depart from")
        names = self.networks
        if len(set(names)) < len(names):
            raise ValueError("network lists a network twice")
        if isinstance(self.weights, str) and self.weights != "random" and len(names) > 1:
            raise ValueError("weights is one file and network lists several; give { network = file }")
        if isinstance(self.weights, Mapping) and (unknown := set(self.weights) - set(names)):
            raise ValueError(f"weights names {sorted(unknown)[0]!r}, which is not in network")
        if self.resize is not None and set(names) <= set(INCEPTIONS):
            raise ValueError("resize: the network of FID has one input size, 299 px; leave it out")
        return self

    def _fits_protocol(self) -> None:
        known = [name for name, protocol in PROTOCOLS.items() if protocol.generated == self.of_samples]
        if self.protocol not in known:
            raise ValueError(f"protocol {self.protocol!r} is none of {', '.join(known)}")
        for key in ("network", "resize", "metrics"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"protocol {self.protocol} fixes {key}; leave it out")

    @property
    def named(self) -> FidProtocol | None:
        """The named protocol."""
        return None if self.protocol is None else PROTOCOLS[self.protocol]

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks."""
        if self.named is not None:
            return (self.named.extractor,)
        return (self.network,) if isinstance(self.network, str) else self.network

    @property
    def measured(self) -> tuple[MetricName, ...]:
        """The metrics."""
        return self.metrics if self.named is None else self.named.metrics

    def weights_of(self, network: str) -> str | None:
        """The weights of a network: a file, ``"random"``, or None to search for them."""
        return self.weights.get(network) if isinstance(self.weights, Mapping) else self.weights


class FrechetGeneratedConfig(FrechetConfig, GeneratedEvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "frechet_generated"``."""

    of_samples: ClassVar[bool] = True
    protocols = {name: {"protocol": name} for name, one in PROTOCOLS.items() if one.generated}

    use: Literal["frechet_generated"] = "frechet_generated"  # type: ignore[assignment]
    """This evaluator."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet", "kernel")
    """What is measured. `kernel` and `precision_recall` compare all pairs of images."""
    samples: Annotated[int, Field(ge=16)] | None = None
    """Samples to generate; by default 2048, or as many as the protocol asks for."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all samples."""
    reference: Annotated[str, Field(pattern=r"^(train|held_out|.*\.(npz|safetensors))$")] = "train"
    """Images to compare with: ``train``, ``held_out``, or a file of their statistics: ``.safetensors`` as
    `save_reference` writes it, or ``.npz`` with ``mu`` and ``sigma`` as ADM's."""
    floor: bool = True
    """Also measure the distance between training set and held-out set, which a generator can hardly beat; of
    the held-out set to a file."""
    save_reference: Annotated[str, Field(pattern=r"\.safetensors$")] | None = None
    """File to write the reference's statistics to, and its features if pairs of images are compared."""

    @model_validator(mode="after")
    def _reference_agrees(self) -> Self:
        if self.protocol is not None and not self.reference.endswith(STATISTICS):
            raise ValueError(
                f"protocol {self.protocol} compares with {PROTOCOLS[self.protocol].reference}; "
                "give that file as reference"
            )
        if self.save_reference is not None and self.reference.endswith(STATISTICS):
            raise ValueError("save_reference: the reference is a file of statistics already")
        return self

    @property
    def count(self) -> int:
        """Number of samples."""
        if self.samples is not None:
            return self.samples
        return 2048 if self.named is None or self.named.images is None else self.named.images
