"""Whether a program gives the tokenizer's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_plugins.onnx.calls import Call
from vtp_plugins.onnx.trace import first_line

Run = Callable[[Tensor], Sequence[NDArray[Any]]]
"""Input of a call -> its outputs."""

TOLERANCE = 1e-3
"""Largest difference from ours, relative to the largest value. Measured: 1e-6 in float32."""
TOLERANCE_BFLOAT16 = 3e-2
"""The same for networks that round to bfloat16 inside: a difference of 1e-7 may become one of 2**-8."""
CODES = 0.01
"""Largest share of codes that may differ: vectors halfway between two codes."""
OTHER_SIZES = ((1, 4, 2), (3, 2, 3))
"""Batches, rows and columns that the program was not traced with."""


def compare(call: Call, run: Run) -> float:
    """The largest difference of floating outputs, relative to the largest value of each or 1.

    Raises:
        UsageError: It is above the tolerance, outputs have other shapes, or the program fails.
    """
    largest = 0.0
    narrow = any(tensor.dtype == torch.bfloat16 for tensor in call.module.state_dict().values())
    narrow |= any(getattr(module, "dtype", None) == torch.bfloat16 for module in call.module.modules())
    for sizes in OTHER_SIZES:
        value = call.draw(*sizes)
        with torch.no_grad():
            expected = dict(zip(call.outputs, (out.numpy() for out in call.module(value)), strict=True))
        try:
            found = dict(zip(call.outputs, run(value), strict=True))
        except Exception as error:  # of onnxruntime, or a guard of torch.export
            raise UsageError(
                f"{call.name}: its program fails for an input of {tuple(value.shape)}, as the network fixes "
                f"sizes while it is traced ({first_line(error)}); nothing is written"
            ) from error
        if shapes := [name for name in call.outputs if found[name].shape != expected[name].shape]:
            name = shapes[0]
            raise UsageError(
                f"{call.name}: {name} of {tuple(value.shape)} has shape {found[name].shape}, not "
                f"{expected[name].shape}; the program is wrong for other sizes, so nothing is written"
            )
        same = np.True_
        if "codes" in expected:
            equal = found["codes"] == expected["codes"]
            if (share := 1 - equal.mean()) > CODES:
                raise UsageError(
                    f"{call.name}: {share:.1%} of the codes differ from ours; nothing is written"
                )
            same = equal.all(1, keepdims=True)
        for name in call.outputs:
            if name != "codes":
                difference = np.abs(np.where(same, found[name] - expected[name], 0)).max()
                largest = max(largest, float(difference / max(1.0, np.abs(expected[name]).max())))
    if not largest <= (allowed := TOLERANCE_BFLOAT16 if narrow else TOLERANCE):
        raise UsageError(
            f"{call.name}: differs from ours by {largest:.2g} relative to its largest value, more than "
            f"{allowed:g}; nothing is written"
        )
    return largest
