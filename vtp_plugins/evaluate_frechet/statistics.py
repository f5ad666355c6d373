"""Files of a reference's statistics: ours, and ADM's archives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vtp_core.atomic import replacing_file
from vtp_core.errors import NumericError, UsageError
from vtp_plugins.evaluate_frechet.archive import ArchivedImages, read_archive

MEAN, COVARIANCE, FEATURES = "mean", "covariance", "features"
ROWS = 64
"""Images of an archive that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a file holds of one network's features.

    Attributes:
        mean: (C,) float64.
        covariance: (C, C) float64.
        features: (n, C) float32 of each image, or None.
        images: Images whose features can be computed, or None.
        name: The file's name and a hash of its mean and covariance, as protocols write it.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None
    images: ArchivedImages | None
    name: str

    @property
    def has_rows(self) -> bool:
        """Whether it has features of single images, or images to compute them of."""
        return self.features is not None or self.images is not None

    def rows(self, network: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
        """(n, C) float32 features of single images: those of the file, or those of its images.

        Args:
            network: (B, 3, H, W) uint8 -> (B, C).
            device: Where it is.

        Raises:
            UsageError: The images can't be read.
        """
        if self.features is not None:
            return self.features
        assert self.images is not None
        return torch.cat([network(image.to(device)).cpu().float() for image in self.images.batches(ROWS)])


def read_statistics(path: Path, network: str, width: int, fingerprint: str) -> Statistics:
    """Statistics of one network.

    Args:
        path: ``.safetensors`` of `write_statistics`, or ``.npz`` with ``mu`` and ``sigma``, and maybe images.
        network: The network's name.
        width: Number of its features.
        fingerprint: Of its weights. An ``.npz`` names no network: only the width is checked.

    Raises:
        UsageError: The file is missing, damaged, or of another network.
        NumericError: It holds numbers that are not finite.
    """
    if not path.is_file():
        raise UsageError(f"reference {path}: no such file")
    features = images = None
    if path.suffix == ".npz":
        mean, covariance, images = read_archive(path, width)
    else:
        mean, covariance, features = _read_safetensors(path, network, width, fingerprint)
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise NumericError(f"reference {path}: its statistics are not finite")
    digest = hashlib.sha256(mean.numpy().tobytes() + covariance.numpy().tobytes()).hexdigest()[:16]
    unnamed = ", which names no network" if path.suffix == ".npz" else ""
    return Statistics(
        mean=mean,
        covariance=covariance,
        features=features,
        images=images,
        name=f"{path.name} of hash {digest}{unnamed}",
    )


def write_statistics(path: Path, found: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, str]) -> None:
    """Writes a file of statistics, whole or not at all.

    Args:
        path: The file; its folder is made.
        found: Network -> its tensors `mean` and `covariance`, and `features` if they are kept.
        about: Network -> fingerprint of its weights.
    """
    tensors = {
        f"{network}/{name}": tensor.contiguous()
        for network, parts in found.items()
        for name, tensor in parts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as file:
        file.write(save(tensors, {"fingerprints": json.dumps(dict(about))}))


def _read_safetensors(
    path: Path, network: str, width: int, fingerprint: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    try:
        with safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {}).get("fingerprints", "{}"))
            names = set(file.keys())
            if network not in known:
                raise UsageError(
                    f"reference {path}: statistics of {', '.join(known) or 'no network'}, not of {network}"
                )
            if known[network] != fingerprint:
                raise UsageError(
                    f"reference {path}: {network} had the weights {known[network]} there, not {fingerprint}"
                )
            wanted = {MEAN: (width,), COVARIANCE: (width, width)}
            for part, shape in wanted.items():
                key = f"{network}/{part}"
                if key not in names or tuple(file.get_slice(key).get_shape()) != shape:
                    raise UsageError(f"reference {path}: {key} is missing or not of the shape {shape}")
            mean, covariance = (file.get_tensor(f"{network}/{part}").double() for part in wanted)
            features = None
            if (key := f"{network}/{FEATURES}") in names:
                shape = file.get_slice(key).get_shape()
                if len(shape) != 2 or shape[1] != width:
                    raise UsageError(f"reference {path}: {key} has the shape {tuple(shape)}")
                features = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"reference {path}: can't be read ({error})") from None
    return mean, covariance, features
