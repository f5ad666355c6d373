"""Offers the native kernels. Imports no torch."""

from pathlib import Path

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 1

_KERNELS = {
    "cpu_search": ("cpu.search:KERNEL", "nearest code on CPUs: C++ for AVX2, AVX-512 and any other"),
    "cpu_attention": ("cpu.attention:KERNEL", "attention on CPUs: C++ for AVX2, AVX-512 and any other"),
}


@hookimpl
def register_kernels(register: Register) -> None:
    """Implementations of the operations of `vtp_core.ops`."""
    for name, (target, summary) in _KERNELS.items():
        module = target.partition(":")[0].replace(".", "/")
        if (Path(__file__).parent / f"{module}.py").is_file():
            register(name, f"vtp_plugins.kernels.{target}", summary=summary)


@hookimpl
def register_commands(register: Register) -> None:
    """Offers `vtp kernels`."""
    register(
        "kernels",
        "vtp_plugins.kernels.command:kernels",
        summary="List implementations of search and attention, build the native ones.",
    )
