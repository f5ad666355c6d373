"""One training step of a vector quantiser: search, gather, straight-through, and statistics of the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops import code_statistics, nearest_code, straight_through
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.peers.peer import Call, Peer, gather, limit_threads
from vtp_plugins.bench.sizes import sizes

SHAPES = ("4096x1024x64", "4096x8192x32")
FORMAT = "VECTORSxCODESxWIDTH"

DECAY = 1 - 2.0**-20
"""Decay of the codebook's running mean. The codes change in every step, as in training, so a cache of
prepared codes gives no advantage; the change is so small that each round does the same work."""

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Largest difference of quantised values: one step of the running mean, one rounding."""


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal vectors that want a gradient, and normal codes; the running mean is in float32."""
    rows, codes, width = sizes(shape, 3)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.precision)
    vectors = torch.randn(rows, width, generator=generator).to(options.device, dtype).requires_grad_()
    codebook = torch.randn(codes, width, generator=generator).to(options.device)
    limit_threads(options.threads)
    peer = Peer(
        name="vector-quantize-pytorch",
        build=lambda: _peer(vectors, codebook),
        needs=("vector_quantize_pytorch",),
        refuses=None if options.precision == "float32" else "takes float32 only",
    )
    peers, skipped = gather([peer]) if options.peers else ({}, {})
    return BenchCase(
        name="vq_step",
        question="What does the quantiser cost in a training step: forward with statistics, and backward?",
        shape=shape,
        rows=rows,
        unit="vectors",
        variants={"vtp": _ours(vectors, codebook), **peers},
        check=lambda found, expected: _check(found, expected, CLOSE[dtype]),
        flop=2.0 * rows * codes * width,
        skipped=skipped,
    )


def _ours(vectors: Tensor, codebook: Tensor) -> Call:
    counts, sums = codebook.new_ones(len(codebook)), codebook.clone()

    def call() -> Tensor:
        with torch.no_grad():
            table = codebook.to(vectors.dtype)
            index, _ = nearest_code(vectors, table)
            codes = table[index]
            new_counts, new_sums = code_statistics(vectors, index, len(codebook))
            counts.lerp_(new_counts, 1 - DECAY)
            sums.lerp_(new_sums, 1 - DECAY)
            codebook.copy_(sums / counts[:, None])
        quantized = straight_through(vectors, codes)
        commitment = (vectors - codes).square().mean()
        torch.autograd.grad(quantized.sum() + commitment, vectors)
        return quantized

    return call


def _peer(vectors: Tensor, codebook: Tensor) -> Call:
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(codebook.shape[1], codebook_size=codebook.shape[0], decay=DECAY).train()
    module.to(vectors.device)
    module._codebook.embed.data.copy_(codebook[None])
    module._codebook.embed_avg.data.copy_(codebook[None])
    module._codebook.cluster_size.data.fill_(1)

    def call() -> Tensor:
        quantized, _, commitment = module(vectors[None])
        torch.autograd.grad(quantized.sum() + commitment.sum(), vectors)
        return quantized[0]

    return call


def _check(found: object, expected: object, close: float) -> str | None:
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    if found.dtype != expected.dtype:
        return f"{found.dtype} instead of {expected.dtype}"
    differing = ((found - expected).abs() > close).any(1).double().mean().item()
    return None if differing <= 1e-3 else f"{differing:.1%} of the vectors are quantised differently"
