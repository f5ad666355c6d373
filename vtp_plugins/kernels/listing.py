"""What `vtp kernels list` says: the choice of "auto" for typical cases on this machine."""

from __future__ import annotations

from typing import Any

import torch

from vtp_core.errors import UsageError
from vtp_core.installation import kernels as implementations
from vtp_core.installation import native_modules
from vtp_core.ops import AttentionCase, SearchCase, attention_choice, search_choice
from vtp_core.ops.choice import Case, Choice
from vtp_plugins.kernels.cpu.instruction_set import cpu_isa
from vtp_plugins.kernels.native.loading import why_missing

__all__ = ["automatic", "implementations", "instruction_set", "native_modules"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def automatic() -> list[dict[str, str]]:
    """What ``auto`` takes for an image of 256 tokens and a codebook of 16,384 codes, a row for each case."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    search, attention = search_choice(), attention_choice()
    rows = []
    for device in devices:
        for name, dtype in DTYPES.items():
            searched = SearchCase(
                device=device, dtype=dtype, rows=4096, codes=16384, width=32, metric="l2", exact=True
            )
            rows.append(_row("nearest_code", device, name, search, searched))
        for name, dtype in DTYPES.items():
            for packed in (False, True):
                attended = AttentionCase(
                    device=device, dtype=dtype, tokens=256, width=64, packed=packed, lse=False
                )
                operator = "attention, packed" if packed else "attention"
                rows.append(_row(operator, device, name, attention, attended))
    return rows


def instruction_set() -> str:
    """That of the native CPU kernels, after VTP_CPU_ISA, or why there is none."""
    missing = why_missing("_C_cpu")
    if missing is not None:
        return f"none: _C_cpu {missing}"
    try:
        return cpu_isa()
    except UsageError as error:
        return str(error)


def _row(operator: str, device: str, dtype: str, choice: Choice[Any], case: Case) -> dict[str, str]:
    try:
        name = choice.pick(case).name
    except UsageError as error:
        name = f"none: {error}"
    return {"operator": operator, "device": device, "dtype": dtype, "name": name}
