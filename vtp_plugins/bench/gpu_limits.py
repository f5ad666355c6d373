"""What a GPU's data sheet allows: seconds that a call takes at least, on paper.

The ratio to it says how good a kernel is on a machine that we have never seen. Only an H100 SXM is listed, of
which the rates below are published; on any other device there is no limit to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Rates of a device.

    Attributes:
        tensor: bfloat16 tensor core operations per second, dense.
        bytes: Of memory per second.
        multiprocessors: Number of them.
        clock: Of a multiprocessor, Hz.
    """

    tensor: float
    bytes: float
    multiprocessors: int
    clock: float


SHEETS = {
    "NVIDIA H100 80GB HBM3": Sheet(tensor=989e12, bytes=3.35e12, multiprocessors=132, clock=1.755e9),
}

PAIRS_A_CLOCK = 50
"""Pairs of a vector and a code for which a multiprocessor can keep the best score in one clock, with one
maximum a score and the block's number instead of the code's."""

EXPONENTIALS_A_CLOCK = 16


def search_limit(device: str, rows: int, codes: int, width: int) -> float | None:
    """Of a nearest-code search: scores on tensor cores or keeping the best, whichever is slower.

    Args:
        device: As torch names it.
        rows: Vectors.
        codes: Codes.
        width: Channels, padded to 16 for the tensor cores.
    """
    sheet = _sheet(device)
    if sheet is None:
        return None
    scores = 2.0 * rows * codes * max(16, width) / sheet.tensor
    keeping = rows * codes / (PAIRS_A_CLOCK * sheet.multiprocessors * sheet.clock)
    traffic = 2.0 * (rows + codes) * width / sheet.bytes
    return max(scores, keeping, traffic)


def attention_limit(device: str, flop: float, exponentials: float, moved: float) -> float | None:
    """Of attention: products, exponentials or memory traffic, whichever is slowest.

    Args:
        device: As torch names it.
        flop: Of all products.
        exponentials: Number of them.
        moved: Bytes that are read and written at least.
    """
    sheet = _sheet(device)
    if sheet is None:
        return None
    powers = exponentials / (EXPONENTIALS_A_CLOCK * sheet.multiprocessors * sheet.clock)
    return max(flop / sheet.tensor, powers, moved / sheet.bytes)


def _sheet(device: str) -> Sheet | None:
    if device == "cpu":
        return None
    import torch

    return SHEETS.get(torch.cuda.get_device_name(device))
