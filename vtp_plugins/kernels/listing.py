"""What `vtp kernels list` and `vtp doctor` print: implementations, native modules, the choices of "auto"."""

from __future__ import annotations

from typing import Any

import torch

from vtp_core.errors import UsageError
from vtp_core.ops import (
    AttentionCase,
    AttentionKernel,
    SearchCase,
    SearchKernel,
    attention_choice,
    search_choice,
)
from vtp_core.ops.choice import Choice, KernelCase
from vtp_core.ops.installed import kernel_of
from vtp_core.plugins import BrokenComponent, Diagnosis, load_plugins
from vtp_plugins.kernels.cpu.instruction_set import cpu_isa
from vtp_plugins.kernels.native.build import library
from vtp_plugins.kernels.native.loading import recorded_reason, why_missing
from vtp_plugins.kernels.native.sources import MODULES
from vtp_plugins.kernels.tuning.key import key_of
from vtp_plugins.kernels.tuning.results import read_results

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def diagnose() -> Diagnosis:
    """Native modules and implementations for ``vtp doctor``; a module that was built must load."""
    modules = native_modules()
    return Diagnosis(
        facts={
            "native": [
                f"{it['module']} {'built' if it['built'] else 'not built: ' + str(it['reason'])}"
                for it in modules
            ],
            "kernels": [
                f"{' '.join(filter(None, (it['operator'], it['name'])))}: {it['missing'] or 'ready'}"
                for it in implementations()
            ],
            "measured": [f"{it['device']} ({it['name']}): {it['state']}" for it in measurements()],
        },
        problems=[
            f"{it['module']} {missing}; run vtp kernels build"
            for it in modules
            if it["built"] and (missing := why_missing(it["module"]))
        ],
    )


def native_modules() -> list[dict[str, Any]]:
    """Which extension modules were built, and what the installation recorded about the others.

    Returns:
        Rows of `module`, `built` and `reason`. A module that was built may not fit the torch at hand:
        `implementations` loads it.
    """
    rows = []
    for module in MODULES:
        built = library(module).is_file()
        rows.append({"module": module, "built": built, "reason": None if built else recorded_reason(module)})
    return rows


def implementations() -> list[dict[str, Any]]:
    """The implementations of operators, those of plugins first, and why one can't run on this machine.

    Returns:
        Rows of `operator`, `name`, `device` (None: any) and `missing`: None, or the reason.
    """
    rows: list[dict[str, Any]] = []
    attention, search = [], []
    for component in load_plugins().components("kernel"):
        try:
            kernel = kernel_of(component)
        except BrokenComponent as error:
            rows.append({"operator": None, "name": component.name, "device": None, "missing": str(error)})
            continue
        if isinstance(kernel, AttentionKernel):
            attention.append(kernel)
        elif isinstance(kernel, SearchKernel):
            search.append(kernel)
    for choice in (search_choice(kernels=search), attention_choice(kernels=attention)):
        rows += [
            {"operator": choice.operator, "name": it.name, "device": it.device, "missing": it.missing()}
            for it in choice.kernels
        ]
    return rows


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


def measurements() -> list[dict[str, str]]:
    """What `vtp kernels tune` has measured on each device of this machine.

    Returns:
        Rows of `device`, `name` and `state`: a date and what it decides, or that nothing was measured.
    """
    rows = []
    for device in _devices():
        key = key_of(device)
        try:
            results = read_results(key)
        except ValueError as error:
            state = str(error)
        else:
            decides = "auto follows it" if device.type == "cuda" else "for information"
            state = (
                f"measured on {results.get('date')}, {decides}"
                if results
                else "never measured; vtp kernels tune does it"
            )
        rows.append({"device": str(device), "name": key["device"], "state": state})
    return rows


def _devices() -> list[torch.device]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(count))]


def instruction_set() -> str:
    """Instruction set of the native CPU kernels, after VTP_CPU_ISA, or why there is none."""
    missing = why_missing("_C_cpu")
    if missing is not None:
        return f"none: _C_cpu {missing}"
    try:
        return cpu_isa()
    except UsageError as error:
        return str(error)


def _row(operator: str, device: str, dtype: str, choice: Choice[Any], case: KernelCase) -> dict[str, str]:
    try:
        name = choice.pick(case).name
    except UsageError as error:
        name = f"none: {error}"
    return {"operator": operator, "device": device, "dtype": dtype, "name": name}
