"""Nearest codebook entry of every vector: `vtp_core.ops.nearest_code` against all installed peers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vtp_core.ops import SearchChoice, SearchKernel, nearest_code
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.gpu_limits import search_limit, sheet_of
from vtp_plugins.bench.peers.ours import usable
from vtp_plugins.bench.peers.peer import gather, limit_threads
from vtp_plugins.bench.peers.search import search_peers
from vtp_plugins.bench.sizes import sizes
from vtp_plugins.kernels.native.loading import why_missing

SHAPES = (
    "4096x1024x64",
    "4096x8192x8",
    "4096x8192x32",
    "4096x16384x64",
    "4096x4096x768",
    "4096x16384x256",
    "4096x65536x8",
)
FORMAT = "VECTORSxCODESxWIDTH"

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""By how much of its scale a peer's distance may miss the smallest one: peers are not exact."""


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal vectors and codes."""
    rows, codes, width = sizes(shape, 3)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.precision)
    vectors = torch.randn(rows, width, generator=generator).to(options.device, dtype)
    codebook = torch.randn(codes, width, generator=generator).to(options.device, dtype)
    limit_threads(options.threads)
    peers, skipped = gather(search_peers(vectors, codebook, options.threads)) if options.peers else ({}, {})
    return BenchCase(
        name="nearest_code",
        question="How fast is an exact search for the nearest code, beside what other libraries offer?",
        shape=shape,
        rows=rows,
        unit="vectors",
        variants={**_ours(vectors, codebook), **peers},
        check=lambda found, expected: _check(found, expected, vectors, codebook),
        flop=2.0 * rows * codes * width,
        skipped=skipped,
        peak="float32" if options.device == "cpu" else "bfloat16",  # what screens the codes there
        limit=search_limit(sheet_of(options.device), rows, codes, width, vectors.element_size()),
    )


def _ours(vectors: Tensor, codebook: Tensor) -> Mapping[str, Callable[[], Tensor]]:
    def cached() -> Tensor:
        return nearest_code(vectors, codebook)[0]

    calls = itertools.count(1)

    def packing() -> Tensor:
        # Other values in every call: a packed codebook is found again by its content.
        return nearest_code(vectors, codebook * (1 + next(calls) * 2.0**-20))[0]

    ours = {"vtp": cached, "vtp, new codebook": packing}
    if _screens_in_bfloat16(vectors):
        ours["vtp, float32 alone"] = _limited(cached, "avx512")
    if vectors.device.type != "cpu":
        kernels = usable(SearchKernel, str(vectors.device))
        ours |= {f"vtp, {kernel.name}": _by(kernel, vectors, codebook) for kernel in kernels}
    return ours


def _by(kernel: SearchKernel, vectors: Tensor, codebook: Tensor) -> Callable[[], Tensor]:
    choice = SearchChoice((kernel,))
    return lambda: nearest_code(vectors, codebook, implementation=choice)[0]


def _screens_in_bfloat16(vectors: Tensor) -> bool:
    # Loads the module: a child that counts memory must find the variants of its parent.
    if vectors.device.type != "cpu" or why_missing("_C_cpu") is not None:
        return False
    return str(torch.ops.vtp_cpu.isa()) == "avx512bf16"


def _limited(call: Callable[[], Tensor], isa: str) -> Callable[[], Tensor]:
    """The same call on an older instruction set."""

    def limited() -> Tensor:
        before = os.environ.get("VTP_CPU_ISA")
        os.environ["VTP_CPU_ISA"] = isa
        try:
            return call()
        finally:
            if before is None:
                del os.environ["VTP_CPU_ISA"]
            else:
                os.environ["VTP_CPU_ISA"] = before

    return limited


def _check(found: object, expected: object, vectors: Tensor, codebook: Tensor) -> str | None:
    """A sentence if an index is not of a code about as near as the nearest."""
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"

    def distance(index: Tensor) -> Tensor:
        return (vectors.double() - codebook[index].double()).square().sum(1)

    scale = vectors.double().square().sum(1) + codebook.double().square().sum(1).mean()
    worst = ((distance(found) - distance(expected)).abs() / scale).max().item()
    return None if worst <= CLOSE[vectors.dtype] else f"a distance differs by {worst:.1e} of its scale"
