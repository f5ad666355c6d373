"""Settings of the evaluator `reconstruction`. Imports no torch."""

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import model_validator

from vtp_core.config import EvaluatorConfig
from vtp_plugins.evaluate_reconstruction.protocols import PROTOCOLS, Lpips, ReconstructionProtocol

NO_LPIPS: Final = "none"
"""Value of `lpips` that measures no LPIPS."""


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
    lpips: Lpips | Literal["none"] | None = None
    """Network of LPIPS, which is measured only if one is named, here or by the protocol; papers mostly use
    ``lpips_alex`` or ``lpips_vgg``. ``lpips_squeeze_ndf``: LPIPS' heads on the SqueezeNet of the package ndf,
    not LPIPS. ``none``: no LPIPS, also where the protocol has it."""
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
        if fixed and self.lpips not in (None, NO_LPIPS, fixed):
            raise ValueError(f'protocol {self.protocol} is measured with lpips = "{fixed}"')
        return self

    def conflicts(self) -> Mapping[str, str]:
        """A network of LPIPS beside a protocol without LPIPS."""
        if self.named is None or "lpips" in self.named.metrics or self.lpips in (None, NO_LPIPS):
            return {}
        return {"lpips": f"protocol {self.protocol} has no LPIPS; leave lpips out"}

    @property
    def named(self) -> ReconstructionProtocol | None:
        """The named protocol."""
        return None if self.protocol is None else PROTOCOLS[self.protocol]

    @property
    def network(self) -> Lpips | None:
        """The network of LPIPS: that of the table, else that of the named protocol; None: no LPIPS."""
        if self.lpips == NO_LPIPS or (self.named is not None and "lpips" not in self.named.metrics):
            return None
        return self.lpips or (None if self.named is None else self.named.lpips)
