"""Reads a cached latent from an untrusted NumPy file. Imports no torch."""

from __future__ import annotations

import io
import math

import numpy
from numpy.lib import format as npy
from numpy.typing import NDArray

from vtp_core.data.source import BadSample

_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
        shape, by_column, dtype = _READERS[npy.read_magic(file)](file)
    except Exception as error:  # NumPy evaluates the header, which fails in many ways if it is damaged
        raise BadSample(key, "damaged latent", f"no .npy file ({type(error).__name__})") from error
    if len(shape) != 3 or min(shape) < 1 or dtype.kind != "f":
        raise BadSample(key, "damaged latent", f"{dtype} {shape}, not float (d, h, w)")
    size = len(data) - file.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise BadSample(key, "damaged latent", f"{size} bytes for {dtype} {shape}")
    values = numpy.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if by_column else "C")
    with numpy.errstate(over="ignore", invalid="ignore"):
        latent = numpy.array(values, dtype=numpy.float32)
    if not numpy.isfinite(latent).all():
        raise BadSample(key, "damaged latent", "values that are not finite")
    return latent
