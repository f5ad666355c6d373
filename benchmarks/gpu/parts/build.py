"""Builds the CUDA module for the GPU at hand."""

from __future__ import annotations

from benchmarks.gpu.context import Context

SUMMARY = "compiles the CUDA C++ kernels for this GPU"
LIMIT = 75.0
KEPT = 20.0


def run(context: Context) -> list[str]:
    """What was built, and what each implementation lacks, if anything."""
    built = context.vtp("kernels", "build", "--only", "cuda").strip().splitlines()
    listed = context.vtp("kernels", "list").strip().splitlines()
    return ["```", *built, "", *listed, "```"]
