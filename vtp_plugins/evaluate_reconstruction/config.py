"""Settings of the evaluator `reconstruction`. Imports no torch."""

from typing import Literal, Self

from pydantic import model_validator

from vtp_core.config import EvaluatorConfig
from vtp_plugins.evaluate_reconstruction.protocols import PROTOCOLS, Lpips, ReconstructionProtocol


class ReconstructionConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "reconstruction"``."""

    protocols = {name: {"protocol": name} for name in PROTOCOLS}

    use: Literal["reconstruction"] = "reconstruction"
    """This evaluator."""
    protocol: str | None = None
    """A named protocol, which fixes crop, rounding, precision, number of images and the network of LPIPS;
    docs/evaluation.md lists them."""
    force: bool = False
    """Measure another number of images than the named protocol's; the metrics' names are marked."""
    lpips: Lpips | None = None
    """Network of LPIPS, which is measured only if one is named, here or by the protocol; papers mostly use
    ``lpips_alex`` or ``lpips_vgg``. ``lpips_squeeze_ndf``: LPIPS' heads on the SqueezeNet of the package ndf,
    not LPIPS."""
    lpips_weights: str | None = None
    """File with the trunk's weights, under torchvision's names; default: an installed package, else
    torchvision's hub. ``"random"`` is an untrained trunk for tests, whose distances mean nothing."""

    @model_validator(mode="after")
    def _fits_protocol(self) -> Self:
        if self.protocol is None:
            if self.force:
                raise ValueError("force needs a protocol to depart from")
            return self
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is none of {', '.join(PROTOCOLS)}")
        fixed = PROTOCOLS[self.protocol].lpips
        if fixed and self.lpips not in (None, fixed):
            raise ValueError(f'protocol {self.protocol} is measured with lpips = "{fixed}"')
        if self.lpips is not None and "lpips" not in PROTOCOLS[self.protocol].metrics:
            raise ValueError(f"protocol {self.protocol} has no LPIPS; leave lpips out")
        return self

    @property
    def named(self) -> ReconstructionProtocol | None:
        """The named protocol."""
        return None if self.protocol is None else PROTOCOLS[self.protocol]

    @property
    def network(self) -> Lpips | None:
        """The network of LPIPS: that of the table, else that of the named protocol."""
        return self.lpips or (None if self.named is None else self.named.lpips)
