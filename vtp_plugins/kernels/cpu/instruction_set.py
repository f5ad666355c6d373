"""Which instruction set the native CPU kernels use, after `VTP_CPU_ISA`."""

from __future__ import annotations

import torch

from vtp_core.errors import UsageError


def cpu_isa() -> str:
    """``"portable"``, ``"avx2"``, ``"avx512"`` or ``"avx512bf16"``; `_C_cpu` must be loaded.

    Raises:
        UsageError: `VTP_CPU_ISA` names none of them, or one that this processor lacks.
    """
    try:
        return str(torch.ops.vtp_cpu.isa())
    except RuntimeError as error:
        raise UsageError(str(error).partition("\n")[0]) from error
