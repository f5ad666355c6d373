"""Facts about this machine and this installation, as plain data. Imports torch only in `torch_build`.

`vtp doctor` prints them; benchmark reports and a run's ``environment.json`` hold parts of them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from vtp_core.plugins import Plugin, PluginFailure, Plugins

DISTRIBUTION = "vtp-core"
WEIGHTS_EXTRA = "offline"

# Instruction sets that decide the speed of matrix products.
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")

Facts = dict[str, Any]


def examine() -> Facts:
    """Facts about this machine and installation, ready for JSON.

    Returns:
        Sections `vtp`, `machine`, `torch`, `packages`, `weights`, `plugins`, `diagnostics`, and `problems`:
        one line for each thing that keeps the framework or a plugin from working.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.plugins.loading import selected

    loaded = load_plugins(try_first="diagnostics")
    with selected(loaded):  # a diagnostic of the core may load plugins itself
        diagnosed = diagnostics(loaded)
    facts: Facts = {
        "vtp": release(),
        "machine": machine(),
        "torch": torch_build(),
        "packages": packages(),
        "weights": packages(extra=WEIGHTS_EXTRA),
        "plugins": plugins(loaded),
        "diagnostics": diagnosed,
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


def packages(extra: str | None = None, distribution: str = DISTRIBUTION) -> list[Facts]:
    """The packages that the metadata of an installed one asks for, and what is there.

    Args:
        extra: Those of this extra alone; None: the required ones.
        distribution: The package that asks.
    """
    listed = []
    for line in _requirements(distribution):
        needed = Requirement(line)
        applies = needed.marker is None or needed.marker.evaluate({"extra": extra or ""})
        of_extra = needed.marker is not None and "extra" in str(needed.marker)
        if not applies or of_extra != (extra is not None):
            continue
        version = _version(needed.name)
        ok = version is not None and needed.specifier.contains(version, prereleases=True)
        listed.append({"name": needed.name, "needs": str(needed.specifier), "version": version, "ok": ok})
    return listed


def plugins(loaded: Plugins) -> Facts:
    """Plugins that work, with the number of their components, and those that don't, with the reason."""

    def described(name: str, item: Plugin | PluginFailure) -> Facts:
        return {"plugin": name, "distribution": item.distribution, "version": item.version}

    return {
        "ok": [described(it.name, it) | {"components": len(it.components)} for it in loaded],
        "failed": [described(it.plugin, it) | {"reason": it.reason} for it in loaded.failures],
    }


def diagnostics(loaded: Plugins) -> dict[str, Facts]:
    """What plugins report about themselves, by the name of the diagnostic.

    Returns:
        Rows of `distribution`, `facts` (title -> lines), `problems` and `error` (None, or why the function
        failed).
    """
    from vtp_core.plugins import BrokenComponent, diagnose

    found: dict[str, Facts] = {}
    for component in loaded.components("diagnostic"):
        row: Facts = {"distribution": component.distribution, "facts": {}, "problems": [], "error": None}
        try:
            found[component.name] = row | asdict(diagnose(component))
        except BrokenComponent as error:
            found[component.name] = row | {"error": str(error)}
    return found


def problems(facts: Mapping[str, Any]) -> Iterator[str]:
    """What keeps the framework or a plugin from working; a third-party plugin that failed is no problem."""
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
    for name, item in facts["diagnostics"].items():
        yield from (f"{name}: {problem}" for problem in item["problems"])
        if item["error"] and item["distribution"] == DISTRIBUTION:
            yield f"{name}: {item['error']}"


def _requirements(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
