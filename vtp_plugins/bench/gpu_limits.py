"""What a GPU's data sheet allows: seconds that a call takes at least, on paper.

The ratio to it says how good a kernel is. Devices whose published rates are not listed have no limit to
compare with; `vtp_plugins.bench.peak` measures rates on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtp_plugins.bench.config import Precision


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Published rates of a device.

    Attributes:
        tensor: bfloat16 tensor core operations per second, dense.
        tf32: The same of TF32.
        bytes: Of memory per second.
        multiprocessors: Number of them.
        clock: Of a multiprocessor, Hz, at which `tensor` holds.
    """

    tensor: float
    tf32: float
    bytes: float
    multiprocessors: int
    clock: float

    def products(self, precision: Precision) -> float:
        """Operations per second of products in a precision; float32 by three products of TF32 parts."""
        return self.tensor if precision == "bfloat16" else self.tf32 / 3


SHEETS = {
    "NVIDIA H100 80GB HBM3": Sheet(
        tensor=989e12, tf32=495e12, bytes=3.35e12, multiprocessors=132, clock=1.83e9
    ),
    "NVIDIA H200": Sheet(tensor=989e12, tf32=495e12, bytes=4.8e12, multiprocessors=132, clock=1.83e9),
}

PAIRS_A_CLOCK = 50
"""Pairs of a vector and a code for which a multiprocessor can keep the best score in one clock, with one
maximum a score and the block's number instead of the code's."""

EXPONENTIALS_A_CLOCK = 16


def search_limit(sheet: Sheet | None, rows: int, codes: int, width: int, bytes: int = 2) -> float | None:
    """Of a nearest-code search: scores on tensor cores or keeping the best, whichever is slower.

    Args:
        sheet: Of the device; None: not known.
        rows: Vectors.
        codes: Codes.
        width: Channels, padded to 16 for the tensor cores.
        bytes: Of a number; scores are screened in bfloat16 in any case.
    """
    if sheet is None:
        return None
    scores = 2.0 * rows * codes * max(16, width) / sheet.tensor
    keeping = rows * codes / (PAIRS_A_CLOCK * sheet.multiprocessors * sheet.clock)
    traffic = float(bytes) * (rows + codes) * width / sheet.bytes
    return max(scores, keeping, traffic)


def attention_limit(
    sheet: Sheet | None, flop: float, exponentials: float, moved: float, precision: Precision = "bfloat16"
) -> float | None:
    """Of attention: products, exponentials or memory traffic, whichever is slowest.

    Args:
        sheet: Of the device; None: not known.
        flop: Of all products.
        exponentials: Number of them.
        moved: Bytes that are read and written at least.
        precision: Of the products.
    """
    if sheet is None:
        return None
    powers = exponentials / (EXPONENTIALS_A_CLOCK * sheet.multiprocessors * sheet.clock)
    return max(flop / sheet.products(precision), powers, moved / sheet.bytes)


def sheet_of(device: str) -> Sheet | None:
    """The sheet of a device of this machine, as torch names it; None if there is none."""
    if device == "cpu":
        return None
    import torch

    return SHEETS.get(torch.cuda.get_device_name(device))
