"""Files of a reference's statistics: ours, and ADM's archives; read without running code in them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vtp_core.atomic import replacing_file
from vtp_core.errors import NumericError, UsageError

MEAN, COVARIANCE, FEATURES = "mean", "covariance", "features"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a file holds of one network's features.

    Attributes:
        mean: (C,) float64.
        covariance: (C, C) float64.
        features: (n, C) float32 of each image, or None.
        name: The file's name and a hash of its mean and covariance, as protocols write it.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None
    name: str


def read_statistics(path: Path, network: str, width: int, fingerprint: str) -> Statistics:
    """Statistics of one network.

    Args:
        path: ``.safetensors`` of `write_statistics`, or ``.npz`` with ``mu`` and ``sigma``.
        network: The network's name.
        width: Number of its features.
        fingerprint: Of its weights. An ``.npz`` names no network: only the width is checked.

    Raises:
        UsageError: The file is missing, damaged, or of another network.
        NumericError: It holds numbers that are not finite.
    """
    if not path.is_file():
        raise UsageError(f"reference {path}: no such file")
    if path.suffix == ".npz":
        mean, covariance, features = *_read_npz(path, width), None
    else:
        mean, covariance, features = _read_safetensors(path, network, width, fingerprint)
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise NumericError(f"reference {path}: its statistics are not finite")
    digest = hashlib.sha256(mean.numpy().tobytes() + covariance.numpy().tobytes()).hexdigest()[:16]
    return Statistics(
        mean=mean, covariance=covariance, features=features, name=f"{path.name} of hash {digest}"
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


def _read_npz(path: Path, width: int) -> tuple[Tensor, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _member(archive, "mu", (width,), path), _member(archive, "sigma", (width, width), path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise UsageError(f"reference {path}: no archive with mu and sigma ({error})") from None


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """A float array of a known shape; what its header says is checked before anything is read."""
    with archive.open(f"{name}.npy") as file:
        found, dtype = _header(file)
        if found != shape or dtype.kind != "f" or dtype.hasobject:
            raise UsageError(f"reference {path}: {name} is {dtype} {found}, not floats of the shape {shape}")
        size = int(numpy.prod(shape)) * dtype.itemsize
        content = file.read(size)
        if len(content) != size:
            raise EOFError(f"{name} ends early")
    return torch.from_numpy(numpy.frombuffer(content, dtype).reshape(shape).astype(numpy.float64))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], numpy.dtype]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the array format")
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("an array in Fortran's order")
    return shape, dtype
