"""Loads the extension modules; says in one line why one is missing."""

from __future__ import annotations

import importlib
import json

from vtp_plugins.kernels.native.build import RECORD
from vtp_plugins.kernels.native.sources import PACKAGE


def why_missing(module: str) -> str | None:
    """Loads an extension module, so that its operators are there.

    Modules of kernels call it once, while they are imported, and refuse every case with what it returns.

    Args:
        module: ``"_C_cpu"`` or ``"_C_cuda"``.

    Returns:
        None if the operators are registered, else the reason, to be read after "native kernels:".
    """
    import torch  # noqa: F401  (the library finds torch's symbols in the process)

    try:
        importlib.import_module(f"vtp_plugins.kernels.{module}")
    except ModuleNotFoundError:
        return f"not built: {recorded_reason(module)}"
    except ImportError as error:  # made for another torch or another machine
        return f"can't be loaded: {' '.join(str(error).split())}"
    return None


def recorded_reason(module: str) -> str:
    """What the installation said about a module that it did not build."""
    try:
        rows = json.loads((PACKAGE / RECORD).read_text())["modules"]
    except (OSError, ValueError, KeyError):
        return "no build was tried; run vtp kernels build"
    return (rows.get(module) or {}).get("reason") or "the built library was removed; run vtp kernels build"
