"""The Inception network of FID: torch-fidelity's, with the weights whose hash is known."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_plugins.evaluate_frechet.protocols import INCEPTION_SHA256, PYTORCH_FID
from vtp_plugins.pretrained.files import read_state
from vtp_plugins.pretrained.lookup import RANDOM
from vtp_plugins.pretrained.networks import Frozen, full_float32

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SIDE = 299
WIDTH = 2048
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *("MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    *("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


class InceptionFeatures(Frozen):
    """Pooled features of 8-bit images: Inception's input of the last layer.

    The constructor reads no weights: `load` does, or whatever needs them first.

    Args:
        name: ``inception-v3-compat``: TensorFlow 1's bilinear resize and (x - 128) / 128, as the original
            FID; ``inception-v3-pytorch-fid``: torch's bilinear resize of [0, 1] pixels and 2 x - 1, as
            pytorch-fid.
        weights: File of the weights, ``"random"`` for an untrained network, or None for torch's cache or a
            download.
        double: Whether to compute in float64.
        digest: SHA-256 that the file must have.

    Attributes:
        name: As given.
        side: 299.
        width: 2048.
        fingerprint: First 16 digits of the file's SHA-256, or ``"random"``.
        untrained: Whether it stays untrained.
    """

    def __init__(
        self, name: str, weights: str | None, *, double: bool = False, digest: str = INCEPTION_SHA256
    ) -> None:
        super().__init__()
        self.name, self.side, self.width = name, SIDE, WIDTH
        self.untrained = weights == RANDOM
        self.fingerprint = RANDOM if self.untrained else digest[:16]
        self._weights, self._digest = weights, digest
        self._dtype = torch.float64 if double else torch.float32
        self.trunk: nn.Module = nn.Identity()
        self._loaded = False
        self.register_buffer("place", torch.zeros(0), persistent=False)

    def load(self) -> Self:
        """Builds the network and reads its weights, once.

        Raises:
            UsageError: torch-fidelity is not installed, or the file is missing or another one.
        """
        if not self._loaded:
            file = None if self.untrained else weights_file(self.name, self._weights)
            state = None if file is None else checked_state(self.name, file, self._digest)
            built = trunk(self.name, state).requires_grad_(False).eval()
            self.trunk = built.to(self.get_buffer("place").device, self._dtype)
            self._loaded = True
        return self

    @property
    def description(self) -> str:
        """The extractor in protocols."""
        resize = "torch's bilinear resize" if self.name == PYTORCH_FID else "TensorFlow 1's bilinear resize"
        double = ", float64" if self._dtype == torch.float64 else ""
        return (
            f"{self.name}, weights {self.fingerprint}, {WIDTH} pooled features, {SIDE} px by {resize}{double}"
        )

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(B, 2048) features of images (B, 3, H, W) uint8."""
        layers = self.load().trunk
        pixels = image.to(self._dtype)
        if self.name == PYTORCH_FID:
            unit = F.interpolate(pixels / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            hidden = 2 * unit - 1
        else:
            from torch_fidelity.interpolate_compat_tensorflow import (
                interpolate_bilinear_2d_like_tensorflow1x as resized,
            )

            hidden = (resized(pixels, size=(SIDE, SIDE), align_corners=False) - 128) / 128
        with full_float32(image.device.type):
            for layer in LAYERS:
                hidden = getattr(layers, layer)(hidden)
        return hidden.flatten(1)


def trunk(name: str, state: Mapping[str, Tensor] | None) -> nn.Module:
    """torch-fidelity's network with these weights; None: untrained, the same on every rank.

    Raises:
        UsageError: torch-fidelity is not installed.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UsageError(f"{name} needs torch-fidelity: pip install 'vtp-core[fid]'") from None

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
        """The constructor unpickles a file without restrictions; it gets an empty one here."""

        def load_state_dict(self, *given: Any, **options: Any) -> None:
            """Nothing: the weights come from a checked file."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Untrained(name, ["2048"], feature_extractor_weights_path=empty)
    if state is not None:
        nn.Module.load_state_dict(network, state)
    return network


def weights_file(name: str, weights: str | None) -> Path:
    """The given file, that in torch's cache, or a download to it.

    Raises:
        UsageError: There is no such file, or the download fails.
    """
    if weights is not None:
        return Path(os.path.expanduser(weights))
    cached = cached_file()
    if cached.is_file():
        return cached
    reason = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("1", "true", "yes", "on"):
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(cached), INCEPTION_SHA256[:8], progress=False)
            return cached
        except (OSError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise UsageError(
        f"weights of {name} not found: give the file {cached.name} as `weights`; "
        f"its download from {URL} failed: {reason}"
    )


def cached_file() -> Path:
    """Where torch keeps the download."""
    return Path(torch.hub.get_dir(), "checkpoints", URL.rpartition("/")[2])


def checked_state(name: str, path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a file whose hash is known.

    Raises:
        UsageError: The file is missing, has another hash or holds something else.
    """
    if not path.is_file():
        raise UsageError(f"weights {path}: no such file; correct the path or leave `weights` out")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise UsageError(
            f"weights {path}: SHA-256 is {found[:16]}..., and {name} has {digest[:16]}...; "
            f"give torch-fidelity's file {URL.rpartition('/')[2]}"
        )
    return read_state(path)
