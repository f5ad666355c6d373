"""A call as a program of ``torch.export`` whose batch, height and width may vary."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim, ExportedProgram

import vtp_core.ops  # noqa: F401  # registers torch.ops.vtp
from vtp_core.errors import UsageError
from vtp_plugins.onnx.bfloat16 import without_bfloat16_arithmetic
from vtp_plugins.onnx.calls import SIZES, SMALLEST, Call


def trace(call: Call) -> ExportedProgram:
    """The program, with operators of torch alone.

    Raises:
        UsageError: It can't be traced for sizes that vary; names the call and torch's reason.
    """
    sizes: dict[int, Any] = {0: Dim("batch", min=1)}
    if call.step:
        sizes |= {2: call.step * Dim("rows", min=SMALLEST), 3: call.step * Dim("columns", min=SMALLEST)}
    torch.manual_seed(0)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                call.module, (call.draw(*SIZES),), dynamic_shapes={"value": sizes}, strict=False
            )
            table = {**torch.export.default_decompositions(), torch.ops.vtp.nearest_code.default: _search}
            return without_bfloat16_arithmetic(program.run_decompositions(table))
    except UsageError:
        raise
    except Exception as error:  # torch.export raises anything
        raise UsageError(
            f"{call.name}: can't be traced for images of any size: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of torch's exporters on their own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _search(
    vectors: Tensor, codebook: Tensor, metric: str, weight: Tensor | None, exact: bool, implementation: str
) -> tuple[Tensor, Tensor]:
    """`vtp::nearest_code` in float64 by one matmul: its index, but for ties within rounding.

    Args:
        vectors: (..., D).
        codebook: (K, D).
        metric: ``"l2"``, ``"weighted"`` or ``"cosine"``.
        weight: (D,) or None.
        exact: Not used.
        implementation: Not used.

    Returns:
        Distance and index, (...,) each.
    """
    x, codes = vectors.double(), codebook.double()
    if metric == "cosine":
        x, codes = F.normalize(x, dim=-1), F.normalize(codes, dim=-1)
    if weight is not None:
        root = weight.double().sqrt()
        x, codes = x * root, codes * root
    squares = (x * x).sum(-1, keepdim=True) - 2 * x @ codes.T + (codes * codes).sum(-1)
    distance, index = squares.min(-1)
    halved = distance / 2 if metric == "cosine" else distance
    return halved.to(torch.promote_types(vectors.dtype, torch.float32)), index
