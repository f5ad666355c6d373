"""Contents of ``environment.json``: the software and hardware of a run."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import vtp_core
from vtp_core.installation import DISTRIBUTION, packages, release
from vtp_core.plugins import Plugins


def describe_environment(
    plugins: Plugins, *, device: torch.device, world_size: int, kernels: Mapping[str, str]
) -> dict[str, Any]:
    """Versions, machine and plugins of a run, as JSON data.

    Args:
        plugins: The loaded plugins.
        device: Where rank 0 computes.
        world_size: Number of ranks.
        kernels: Operator -> implementation that the recipe names.
    """
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "command": sys.argv,
        "packages": _packages(plugins),
        "plugins": {
            plugin.name: {"distribution": plugin.distribution, "version": plugin.version}
            for plugin in plugins
        },
        "loose_plugins": [str(Path(plugin.distribution).absolute()) for plugin in plugins if plugin.loose],
        "failed_plugins": [str(failure) for failure in plugins.failures],
        "commit": _commit(Path(vtp_core.__file__).parents[1]),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "cuda": torch.version.cuda if cuda else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "world_size": world_size,
        "kernels": dict(kernels),
    }


def _packages(plugins: Plugins) -> dict[str, str | None]:
    """Versions of the packages that plugins came in and of what those require; None: not installed."""
    owners = [plugin for plugin in plugins if plugin.distribution and not plugin.loose]
    versions: dict[str, str | None] = {plugin.distribution: plugin.version for plugin in owners}
    versions[DISTRIBUTION] = release()["version"]
    for distribution in tuple(versions):
        versions |= {item["name"]: item["version"] for item in packages(distribution=distribution)}
    return versions


def _commit(repository: Path) -> str | None:
    """Commit of a source checkout, with ``+changes`` if files differ; None for an installed package."""
    if not (repository / ".git").exists():
        return None
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        outputs = [
            subprocess.run(
                ["git", "-C", str(repository), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for command in commands
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0] + ("+changes" if outputs[1] else "")
