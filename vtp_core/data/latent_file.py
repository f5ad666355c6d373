"""Reads a cached latent from an untrusted NumPy file. Imports no torch."""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy
from numpy.typing import NDArray

from vtp_core.data.npy_header import read_npy_header
from vtp_core.data.source import BadSample


def decode_latent(data: bytes, key: str) -> NDArray[numpy.float32]:
    """Decodes a ``.npy`` file; its size is compared with its shape before memory is taken.

    Args:
        data: The file.
        key: Name of the sample, for the error.

    Returns:
        (d, h, w) float32, finite.

    Raises:
        BadSample: It is damaged, has another number of dimensions, or values that are not finite numbers.
    """
    file = io.BytesIO(data)
    try:
        header = read_npy_header(file)
    except ValueError as error:
        raise BadSample(key, "damaged latent", str(error)) from error
    shape, dtype = header.shape, header.dtype
    if len(shape) != 3 or min(shape) < 1 or dtype.kind != "f":
        raise BadSample(key, "damaged latent", f"{dtype} {shape}, not float (d, h, w)")
    size = len(data) - file.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise BadSample(key, "damaged latent", f"{size} bytes for {dtype} {shape}")
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    values = numpy.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order=order)
    with numpy.errstate(over="ignore", invalid="ignore"):
        latent = numpy.array(values, dtype=numpy.float32)
    if not numpy.isfinite(latent).all():
        raise BadSample(key, "damaged latent", "values that are not finite")
    return latent
