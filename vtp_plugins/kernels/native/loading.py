"""Loading of the extension modules, with the reason when one is missing."""

from __future__ import annotations

import functools
import importlib

from vtp_plugins.kernels.native.build import recorded


@functools.cache  # asked on every call of an operator; what a process has loaded stays
def why_missing(module: str) -> str | None:
    """Loads an extension module and so registers its operators.

    Args:
        module: ``"_C_cpu"`` or ``"_C_cuda"``.

    Returns:
        None if the operators are registered, else the reason, to be read after the name of a kernel.
    """
    import torch  # noqa: F401  (the library finds torch's symbols in the process)

    try:
        importlib.import_module(f"vtp_plugins.kernels.{module}")
    except ModuleNotFoundError:
        return f"is not built: {recorded_reason(module)}"
    except ImportError as error:  # made for another torch or another machine
        return f"can't be loaded: {' '.join(str(error).split())}"
    return None


def recorded_reason(module: str) -> str:
    """The installation's reason for a missing module."""
    record = recorded()
    if module not in record:
        return "nothing was compiled while installing; run vtp kernels build"
    return record[module] or "the library was removed; run vtp kernels build"
