"""Shows commands the plugins of the checkout where the package is not installed. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import tomllib
from pathlib import Path

from benchmarks.gpu.context import REPOSITORY


def variables(folder: Path) -> dict[str, str]:
    """PYTHONPATH for commands that run in the checkout.

    A machine without a network may lack a way to install. What an installation would add is the list of
    plugins: it is written to `folder`, and nothing else of the machine changes.

    Args:
        folder: Where to write.
    """
    paths = [str(REPOSITORY)]
    try:
        importlib.metadata.version("vtp-core")
    except importlib.metadata.PackageNotFoundError:
        paths.append(str(_write_metadata(folder / "site")))
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def _write_metadata(site: Path) -> Path:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    needs = "".join(f"Requires-Dist: {line}\n" for line in project["dependencies"])
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}", encoding="utf-8"
    )
    points = project["entry-points"]["vtp"]
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (folder / "entry_points.txt").write_text(f"[vtp]\n{lines}", encoding="utf-8")
    return site
