"""What this machine and this installation can do, as plain data. Imports torch only when asked about it.

`vtp doctor` prints it, benchmark reports carry parts of it; `training/environment.py` records a run's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

DISTRIBUTION = "vtp-core"
WEIGHTS_EXTRA = "offline"
NATIVE_PACKAGE = "vtp_plugins.kernels"  # of the same distribution; it is looked for, not imported
NATIVE_MODULES = ("_C_cpu", "_C_cuda")

# Instruction sets that decide how fast matrix products are; any other flag is left out.
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")

Facts = dict[str, Any]


def examine() -> Facts:
    """Facts about this machine and installation, ready for JSON.

    Returns:
        Sections `vtp`, `machine`, `torch`, `packages`, `weights`, `native`, `kernels`, `plugins`, and
        `problems`: one line for each thing that keeps the framework from working.
    """
    facts: Facts = {
        "vtp": release(),
        "machine": machine(),
        "torch": torch_build(),
        "packages": packages(extra=None),
        "weights": packages(extra=WEIGHTS_EXTRA),
        "native": native_modules(),
        "kernels": kernels(),
        "plugins": plugins(),
    }
    facts["problems"] = list(problems(facts))
    return facts


def release() -> Facts:
    """Version of the framework and of Python, and where they are."""
    found: Facts = {"python": platform.python_version(), "executable": sys.executable}
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return {"version": None, "editable": False, **found}
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    editable = bool(origin.get("dir_info", {}).get("editable", False))
    return {"version": distribution.version, "editable": editable, **found}


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Facts:
    """Processor, usable cores, memory and the variables that set the number of threads.

    Args:
        cpuinfo: Linux's description of the processors; other systems have none, and no flags are listed.
    """
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    lines: dict[str, str] = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = getattr(os, "sysconf_names", {})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
    return {
        "system": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "processor": lines.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "threads_env": {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ},
    }


def torch_build() -> Facts:
    """Version and devices of torch, or why it can't be imported."""
    try:
        import torch
    except Exception as error:  # a broken build raises more than ImportError: OSError, RuntimeError
        return {"version": None, "error": f"{type(error).__name__}: {error}"}
    devices = ["cpu"]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        memory = card.total_memory / 2**30
        devices.append(f"cuda:{index} {card.name}, sm_{card.major}{card.minor}, {memory:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps")
    backends = []
    if torch.distributed.is_available():
        checks = {"gloo": torch.distributed.is_gloo_available, "nccl": torch.distributed.is_nccl_available}
        backends = [name for name, available in checks.items() if available()]
    return {
        "version": str(torch.__version__),
        "error": None,
        "cuda": torch.version.cuda,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "distributed": backends,
    }


def packages(extra: str | None) -> list[Facts]:
    """The packages that the installed metadata asks for, and what is there.

    Args:
        extra: Those of this extra alone; None: the required ones.
    """
    listed = []
    for line in _requirements():
        needed = Requirement(line)
        applies = needed.marker is None or needed.marker.evaluate({"extra": extra or ""})
        of_extra = needed.marker is not None and "extra" in str(needed.marker)
        if not applies or of_extra != (extra is not None):
            continue
        version = _version(needed.name)
        ok = version is not None and needed.specifier.contains(version, prereleases=True)
        listed.append({"name": needed.name, "needs": str(needed.specifier), "version": version, "ok": ok})
    return listed


def native_modules() -> list[Facts]:
    """Which extension modules were built, and what the installation said about the others.

    Returns:
        Rows of `module`, `built` and `reason`. A module that was built may still not fit the torch at hand:
        `kernels` loads it.
    """
    spec = importlib.util.find_spec(NATIVE_PACKAGE)
    if spec is None or spec.origin is None:
        return [{"module": name, "built": False, "reason": "not installed"} for name in NATIVE_MODULES]
    folder = Path(spec.origin).parent
    record = folder / "native_build.json"
    reasons: dict[str, str | None] = json.loads(record.read_text()) if record.is_file() else {}
    rows = []
    for name in NATIVE_MODULES:
        built = any(folder.glob(f"{name}.*so"))
        reason = None if built else reasons.get(name) or "no library; run vtp kernels build"
        rows.append({"module": name, "built": built, "reason": reason})
    return rows


def kernels() -> list[Facts]:
    """The implementations of operators, those of plugins first, and why one can't run on this machine.

    Returns:
        Rows of `operator`, `name`, `device` (None: any) and `missing`: None, or the reason.
    """
    try:
        from vtp_core.ops import AttentionKernel, SearchKernel, attention_choice, search_choice
        from vtp_core.ops.installed import kernel_of
    except Exception as error:  # without torch; `torch_build` says more
        return [{"operator": None, "name": "all", "device": None, "missing": f"no torch: {error}"}]
    from vtp_core.plugins import BrokenComponent, load_plugins

    rows: list[Facts] = []
    attention, search = [], []
    for component in load_plugins().components("kernel"):
        try:
            target = kernel_of(component)
        except BrokenComponent as error:
            rows.append({"operator": None, "name": component.name, "device": None, "missing": str(error)})
            continue
        if isinstance(target, AttentionKernel):
            attention.append(target)
        elif isinstance(target, SearchKernel):
            search.append(target)
    for choice in (search_choice(kernels=search), attention_choice(kernels=attention)):
        rows += [
            {"operator": choice.operator, "name": it.name, "device": it.device, "missing": it.missing()}
            for it in choice.kernels
        ]
    return rows


def plugins() -> Facts:
    """Plugins that work, with the number of their components, and those that don't, with the reason."""
    from vtp_core.plugins import load_plugins

    loaded = load_plugins()
    count: dict[tuple[str, str, str], int] = {}
    for item in loaded.components():
        key = (item.plugin, item.distribution, item.version)
        count[key] = count.get(key, 0) + 1
    working = [
        {"plugin": plugin, "distribution": distribution, "version": version, "components": number}
        for (plugin, distribution, version), number in sorted(count.items())
    ]
    failed = [
        {"plugin": it.plugin, "distribution": it.distribution, "version": it.version, "reason": it.reason}
        for it in loaded.failures
    ]
    return {"ok": working, "failed": failed}


def problems(facts: Mapping[str, Any]) -> Iterator[str]:
    """What keeps the framework from working; a broken third-party plugin is no such thing."""
    if facts["vtp"]["version"] is None:
        yield f"{DISTRIBUTION} is not installed, so no plugin is found: pip install -e ."
    if facts["torch"]["error"]:
        yield f"torch can't be imported: {facts['torch']['error']}"
    for item in facts["packages"]:
        if item["version"] is None:
            yield f"{item['name']} is not installed: pip install '{item['name']}{item['needs']}'"
        elif not item["ok"]:
            yield f"{item['name']} {item['version']} is not {item['needs']}: pip install -U {item['name']}"
    for item in facts["plugins"]["failed"]:
        if item["distribution"] == DISTRIBUTION:
            yield f"built-in plugin {item['plugin']} failed to load: {item['reason']}"


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
