"""Native implementations of the operations of `vtp_core.ops`: C++ for CPUs, Triton and CUDA C++ for GPUs."""
