"""Nearest-codebook search in other libraries; each returns the index of the nearest code a row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtp_plugins.bench.peers.peer import Call, Peer

CHUNK = 256
BLAS_CHUNK = 512
DEVICE_SCORES = 2**27
"""Scores that a GPU holds at a time, so that each launch is long."""
LARGEST_MATRIX = 6 * 2**30
"""Bytes of an N x K score matrix beyond which a peer that materialises it is left out."""


def search_peers(vectors: Tensor, codebook: Tensor, threads: int) -> Iterator[Peer]:
    """All of them, for float32 or bfloat16 inputs on any device.

    Args:
        vectors: (N, D).
        codebook: (K, D), same dtype and device.
        threads: For libraries with thread pools of their own.
    """
    matrix = 2 * vectors.shape[0] * codebook.shape[0] * vectors.element_size()
    too_large = (
        f"its score matrix and copy take {matrix / 2**30:.0f} GiB" if matrix > LARGEST_MATRIX else None
    )
    cpu = None if vectors.device.type == "cpu" else "runs on the CPU only"
    full = cpu or (None if vectors.dtype == torch.float32 else "takes float32 only")

    yield Peer(
        name="torch.cdist + argmin", build=lambda: _cdist(vectors, codebook), refuses=too_large or full
    )
    yield Peer(name="matmul + argmax", build=lambda: _matmul(vectors, codebook), refuses=too_large)
    chunk = CHUNK if cpu is None else max(CHUNK, DEVICE_SCORES // codebook.shape[0])
    yield Peer(name=f"addmm, {chunk} rows", build=lambda: _chunked(vectors, codebook, chunk))
    yield Peer(name="torch.compile", build=lambda: _compiled(vectors, codebook), refuses=too_large)
    yield Peer(name="faiss", build=lambda: _faiss(vectors, codebook, threads), needs=("faiss",), refuses=full)
    yield Peer(
        name="scikit-learn",
        build=lambda: _scikit_learn(vectors, codebook),
        needs=("sklearn",),
        refuses=full,
    )
    yield Peer(name="numpy BLAS", build=lambda: _numpy(vectors, codebook), needs=("numpy",), refuses=full)
    yield Peer(
        name="vector-quantize-pytorch",
        build=lambda: _vector_quantize(vectors, codebook),
        needs=("vector_quantize_pytorch",),
        refuses=too_large or full,
    )


def _half_norms(codebook: Tensor) -> Tensor:
    return codebook.square().sum(1) / 2


def _cdist(vectors: Tensor, codebook: Tensor) -> Call:
    return lambda: torch.cdist(vectors, codebook).argmin(1)


def _matmul(vectors: Tensor, codebook: Tensor) -> Call:
    def call() -> Tensor:
        return (vectors @ codebook.T - _half_norms(codebook)).argmax(1)

    return call


def _chunked(vectors: Tensor, codebook: Tensor, chunk: int) -> Call:
    def call() -> Tensor:
        bias, columns = -_half_norms(codebook), codebook.T
        return torch.cat([torch.addmm(bias, rows, columns).argmax(1) for rows in vectors.split(chunk)])

    return call


def _compiled(vectors: Tensor, codebook: Tensor) -> Call:
    @torch.compile
    def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
        return (vectors @ codebook.T - _half_norms(codebook)).argmax(1)

    return lambda: nearest(vectors, codebook)


def _faiss(vectors: Tensor, codebook: Tensor, threads: int) -> Call:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook.numpy())
    return lambda: torch.from_numpy(index.search(vectors.numpy(), 1)[1][:, 0])


def _scikit_learn(vectors: Tensor, codebook: Tensor) -> Call:
    from sklearn.metrics import pairwise_distances_argmin

    return lambda: torch.from_numpy(pairwise_distances_argmin(vectors.numpy(), codebook.numpy()))


def _numpy(vectors: Tensor, codebook: Tensor) -> Call:
    import numpy

    def call() -> Tensor:
        rows, codes = vectors.numpy(), codebook.numpy()
        bias, columns = _half_norms(codebook).numpy(), codes.T
        found = numpy.empty(len(rows), numpy.int64)
        for start in range(0, len(rows), BLAS_CHUNK):
            scores = rows[start : start + BLAS_CHUNK] @ columns
            scores -= bias
            found[start : start + BLAS_CHUNK] = scores.argmax(1)
        return torch.from_numpy(found)

    return call


def _vector_quantize(vectors: Tensor, codebook: Tensor) -> Call:
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(codebook.shape[1], codebook_size=codebook.shape[0]).eval()
    module.to(vectors.device)
    module._codebook.embed.data.copy_(codebook[None])

    def call() -> Tensor:
        with torch.no_grad():
            return module(vectors[None])[1][0]

    return call
