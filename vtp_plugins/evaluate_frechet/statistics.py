"""Files of a reference's statistics: ours, and ADM's archives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vtp_core.atomic import replacing_file
from vtp_core.config import Table
from vtp_core.errors import NumericError, UsageError
from vtp_plugins.evaluate_frechet.archive import ArchivedImages, read_archive

ABOUT = "networks"
"""Key of the metadata: a JSON object, network -> `About`."""
MEAN, COVARIANCE, FEATURES = "mean", "covariance", "features"
ROWS = 64
"""Images of an archive that are read at a time."""


class About(Table):
    """What a file says of one network's statistics."""

    extractor: str
    """The network, its weights and its resize, as protocols write them."""
    images: Annotated[int, Field(ge=1)]
    """Number of images."""
    size: str
    """Their height and width in pixels, before the network's resize."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a file holds of one network's features.

    Attributes:
        mean: (C,) float64.
        covariance: (C, C) float64.
        features: (n, C) float32 of each image, or None.
        images: Images whose features can be computed, or None.
        count: Number of images of the mean and the covariance; None: the file doesn't say.
        name: The file's name, its images and a hash of its mean and covariance, as protocols write it.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None
    images: ArchivedImages | None
    count: int | None
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


def read_statistics(path: Path, network: str, width: int, extractor: str) -> Statistics:
    """Statistics of one network.

    Args:
        path: ``.safetensors`` of `write_statistics`, or ``.npz`` with ``mu`` and ``sigma``, and maybe images.
        network: The network's name.
        width: Number of its features.
        extractor: Its description. An ``.npz`` names no network: only the width is checked.

    Raises:
        UsageError: The file is missing, damaged, or of another network, other weights or another resize.
        NumericError: It holds numbers that are not finite.
    """
    if not path.is_file():
        raise UsageError(f"reference {path}: no such file")
    features = images = about = None
    if path.suffix == ".npz":
        mean, covariance, images = read_archive(path, width)
    else:
        mean, covariance, features, about = _read_safetensors(path, network, width, extractor)
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise NumericError(f"reference {path}: its statistics are not finite")
    digest = hashlib.sha256(mean.numpy().tobytes() + covariance.numpy().tobytes()).hexdigest()[:16]
    which = ", which names no network" if about is None else f", {about.images} images of {about.size}"
    return Statistics(
        mean=mean,
        covariance=covariance,
        features=features,
        images=images,
        count=None if about is None else about.images,
        name=f"{path.name} of hash {digest}{which}",
    )


def write_statistics(
    path: Path, found: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, About]
) -> None:
    """Writes a file of statistics, whole or not at all.

    Args:
        path: The file; its folder is made.
        found: Network -> its tensors `mean` and `covariance`, and `features` if they are kept.
        about: Network -> what the file says of it.
    """
    tensors = {
        f"{network}/{name}": tensor.contiguous()
        for network, parts in found.items()
        for name, tensor in parts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {ABOUT: json.dumps({name: one.model_dump() for name, one in about.items()})}
    with replacing_file(path) as file:
        file.write(save(tensors, metadata))


def _read_safetensors(
    path: Path, network: str, width: int, extractor: str
) -> tuple[Tensor, Tensor, Tensor | None, About]:
    try:
        with safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            names = set(file.keys())
            if network not in known:
                raise UsageError(
                    f"reference {path}: statistics of {', '.join(known) or 'no network'}, not of {network}"
                )
            about = About.model_validate(known[network])
            if about.extractor != extractor:
                raise UsageError(f"reference {path}: features of {about.extractor}, not of {extractor}")
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
        why = f"{error.error_count()} errors in its metadata" if isinstance(error, ValidationError) else error
        raise UsageError(f"reference {path}: can't be read ({why})") from None
    return mean, covariance, features, about
