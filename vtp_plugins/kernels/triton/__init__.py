"""Triton kernels of the core operators, for CUDA GPUs of compute capability 8.0 and up.

`search` and `attention` have the interface, `device` the kernels, `configuration` their tile sizes; `gate`
compiles every kernel for every architecture without a GPU and compares their resources with a table.
"""
