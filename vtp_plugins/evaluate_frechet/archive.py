"""ADM's archives of a reference: moments and images, read as plain arrays without running code in them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy
import torch
from torch import Tensor

from vtp_core.data.npy_header import read_npy_header
from vtp_core.errors import UsageError

IMAGES = "arr_0"
"""The array of images in ADM's archives: a part of the set that the moments are of."""
MOST_PIXELS = 1 << 24
"""Largest image that is read, so that a header can't ask for more memory."""


@dataclass(frozen=True, kw_only=True)
class ArchivedImages:
    """The images of an archive.

    Attributes:
        path: The archive.
        count: Number of images.
        height: In pixels.
        width: In pixels.
        checksum: CRC-32 of the array, as the archive states it; reading checks it.
    """

    path: Path
    count: int
    height: int
    width: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.count} images of CRC {self.checksum:08x}"

    def batches(self, rows: int) -> Iterator[Tensor]:
        """(B, 3, H, W) uint8 on the CPU, `rows` at a time.

        Raises:
            UsageError: The archive is damaged.
        """
        size = self.height * self.width * 3
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
                _header(file)
                for start in range(0, self.count, rows):
                    count = min(rows, self.count - start)
                    content = file.read(count * size)
                    if len(content) != count * size:
                        raise EOFError(f"{IMAGES} ends early")
                    images = numpy.frombuffer(bytearray(content), numpy.uint8)
                    yield torch.from_numpy(images).view(count, self.height, self.width, 3).permute(0, 3, 1, 2)
                file.read(1)  # the end of the array, where the checksum is compared
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
            raise UsageError(f"reference {self.path}: {IMAGES} can't be read ({error})") from None


def read_archive(path: Path, width: int) -> tuple[Tensor, Tensor, ArchivedImages | None]:
    """Mean (C,) and covariance (C, C), float64, and the images if the archive has some.

    Args:
        path: ``.npz`` with ``mu`` and ``sigma``, and maybe ``arr_0``, (N, H, W, 3) uint8.
        width: Number of features C.

    Raises:
        UsageError: It is damaged or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            mean = _member(archive, "mu", (width,), path)
            return mean, _member(archive, "sigma", (width, width), path), _images(archive, path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise UsageError(f"reference {path}: no archive with mu and sigma ({error})") from None


def _images(archive: zipfile.ZipFile, path: Path) -> ArchivedImages | None:
    """The images, of which only the header is read; None: no array of them."""
    if f"{IMAGES}.npy" not in archive.namelist():
        return None
    with archive.open(f"{IMAGES}.npy") as file:
        shape, dtype = _header(file)
    if dtype != numpy.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        return None
    count, height, width, _ = shape
    if height * width > MOST_PIXELS:
        raise ValueError(f"{IMAGES} has images of {height} x {width} px")
    checksum = archive.getinfo(f"{IMAGES}.npy").CRC
    return ArchivedImages(path=path, count=count, height=height, width=width, checksum=checksum)


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


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], numpy.dtype[Any]]:
    header = read_npy_header(file)
    if header.fortran_order:
        raise ValueError("an array in Fortran's order")
    return header.shape, header.dtype
