"""Offers the native kernels. Imports no torch."""

import vtp_core as vtp

vtp_api = 2

_KERNELS = {
    "cpu_search": ("cpu.search:KERNEL", "nearest code on CPUs: C++ for AVX2, AVX-512 and any other"),
    "cpu_attention": ("cpu.attention:KERNEL", "attention on CPUs: C++ for AVX2, AVX-512 and any other"),
    "triton_search": ("triton.search:KERNEL", "nearest code on CUDA GPUs: Triton, screened in bfloat16"),
    "triton_search_tf32x3": ("triton.search:TF32_KERNEL", "the same, screened in three parts of TF32"),
    "triton_search_float32": ("triton.search:FLOAT32_KERNEL", "the same, screened without tensor cores"),
    "triton_attention": ("triton.attention:KERNEL", "attention on CUDA GPUs: Triton, forward and backward"),
    "cuda_search": ("cuda.search:KERNEL", "nearest code on CUDA GPUs: C++, screened in bfloat16"),
    "cuda_attention": ("cuda.attention:KERNEL", "attention on CUDA GPUs: C++ forward, Triton backward"),
}


@vtp.hookimpl
def register_kernels(register: vtp.Register) -> None:
    """Implementations of the operations of `vtp_core.ops`."""
    for name, (target, summary) in _KERNELS.items():
        register(name, f"vtp_plugins.kernels.{target}", summary=summary)


@vtp.hookimpl
def register_rankings(register: vtp.Register) -> None:
    """Offers the order of implementations that `vtp kernels tune` measured."""
    register(
        "tuned",
        "vtp_plugins.kernels.tuning.ranking:ranking",
        summary="The order that vtp kernels tune measured on this machine's CUDA devices.",
    )


@vtp.hookimpl
def register_preparations(register: vtp.Register) -> None:
    """Offers packed linear layers for inference on CPUs."""
    register(
        "packed_linear",
        "vtp_plugins.kernels.cpu.packed_linear:prepare",
        summary="Linear layers packed for oneDNN: encoding and decoding on CPUs.",
    )


@vtp.hookimpl
def register_diagnostics(register: vtp.Register) -> None:
    """Offers the section of `vtp doctor` on native modules and implementations."""
    register("kernels", "vtp_plugins.kernels.listing:diagnose", summary="Native modules and kernels.")


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `vtp kernels`."""
    register(
        "kernels",
        "vtp_plugins.kernels.command:kernels",
        summary="List, build and measure implementations of search and attention.",
    )
