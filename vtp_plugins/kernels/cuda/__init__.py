"""The operators in CUDA C++ (`csrc/cuda`), for NVIDIA GPUs from compute capability 8.0 on."""
