"""The kernels of csrc/cuda as a library of this machine: built with csrc/shim, called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_plugins.kernels.native.compiler import Compilation, compile_all, cxx, link
from vtp_plugins.kernels.native.sources import csrc

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
METRICS = ("l2", "cosine", "weighted")

FLAGS = ("-O2", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-strict-aliasing")


def build(folder: Path, *flags: str) -> Path:
    """Compiles shim, kernels and the faulty kernels of the tests."""
    compiler = cxx()
    assert compiler is not None
    include = [f"-I{csrc() / name}" for name in ("shim", "cuda")]
    files = [*sorted((csrc() / "shim").glob("*.cpp")), Path(__file__).parent / "probes.cpp"]
    compilations = [
        Compilation((*compiler, *FLAGS, *flags, *include, str(path)), folder / f"{path.stem}.o")
        for path in files
    ]
    compile_all(compilations, 2)
    library = folder / "libshim.so"
    link([*compiler, *flags, "-shared", *(str(each.output) for each in compilations)], library)
    return library


class ShimError(Exception):
    """The shim ended a launch."""


class Shim:
    """The library, loaded."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.vtp_shim_error.restype = ctypes.c_char_p

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments):
            raise ShimError(self._library.vtp_shim_error().decode())

    def fault(self, name: str, numbers: Tensor, seed: int = 1) -> Tensor:
        """Runs one of the kernels of probes.cpp on 512 float32 numbers; 256 come back."""
        out = torch.zeros(256)
        self._call("vtp_shim_fault", name.encode(), ctypes.c_ulonglong(seed), _at(numbers), _at(out))
        return out

    def convert(self, numbers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Float32 to a 16-bit dtype (as int16), that back to float32, and the numbers in tf32 (as int32)."""
        bits = torch.zeros(len(numbers), dtype=torch.int16)
        back, tf32 = torch.zeros(len(numbers)), torch.zeros(len(numbers), dtype=torch.int32)
        half = dtype == torch.float16
        self._call("vtp_shim_convert", _at(numbers), len(numbers), half, _at(bits), _at(back), _at(tf32))
        return bits, back, tf32

    def product(self, a: Tensor, b: Tensor, c: Tensor, dtype: torch.dtype) -> Tensor:
        """C (16, 8) + a (16, depth) b (8, depth) transposed, by one instruction; float32 means tf32."""
        out = c.clone()
        self._call("vtp_shim_mma", a.shape[1], dtype == torch.float16, _at(a), _at(b), _at(out))
        return out

    def search(
        self,
        vectors: Tensor,
        codebook: Tensor,
        metric: str = "l2",
        weight: Tensor | None = None,
        *,
        seed: int = 1,
        chunk: int = 0,
        processors: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[int, int]]:
        """Index, distance, and how many rows bfloat16 and then float32 left undecided (in the last chunk)."""
        (rows, width), codes = vectors.shape, len(codebook)
        index = np.zeros(rows, np.int64)
        distance = np.zeros(rows, np.float64 if vectors.dtype == torch.float64 else np.float32)
        levels = (ctypes.c_int * 2)()
        codebook, weight = codebook.contiguous(), None if weight is None else weight.double()
        self._call(
            "vtp_shim_search",
            _at(vectors), ctypes.c_longlong(rows), ctypes.c_longlong(vectors.stride(0)), _at(codebook), codes,
            width, TYPES[vectors.dtype], METRICS.index(metric), _at(weight), chunk, processors,
            ctypes.c_ulonglong(seed), ctypes.c_void_p(index.ctypes.data),
            ctypes.c_void_p(distance.ctypes.data), levels,
        )  # fmt: skip
        return index, distance.astype(np.float64), (levels[0], levels[1])

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ends: Sequence[int] | None = None,
        *,
        scale: float,
        seed: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Of (B, N, H, d), or packed (T, H, d) with where its sequences end; output and log-sum-exp alike."""
        heads, width = q.shape[-2:]
        packed = q.dim() == 3
        assert q.stride() == k.stride() == v.stride() and packed == (ends is not None)
        if ends is None:
            sequences, tokens, bounds = q.shape[0], q.shape[1], None
            outer = q.stride(0)
        else:
            bounds = torch.tensor([0, *ends], dtype=torch.int32)
            sequences, tokens, outer = len(ends), int(bounds.diff().max()), 0
        strides = (ctypes.c_longlong * 3)(outer, q.stride(-2), q.stride(-3))
        span = sum((size - 1) * step for size, step in zip(q.shape, q.stride(), strict=True)) + 1
        out, lse = torch.zeros(q.shape, dtype=q.dtype), torch.zeros(q.shape[:-1])
        self._call(
            "vtp_shim_attention",
            _at(q), _at(k), _at(v), ctypes.c_longlong(span), strides, TYPES[q.dtype], sequences, heads,
            tokens, width, _at(bounds), ctypes.c_longlong(q.numel() // heads // width), ctypes.c_float(scale),
            ctypes.c_ulonglong(seed), _at(out), _at(lse),
        )  # fmt: skip
        return out, lse

    def rows(
        self,
        x: Tensor,
        norms: tuple[Tensor | None, Tensor | None],
        tables: tuple[Tensor, Tensor] | None,
        *,
        eps: float,
        seed: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """X (B, N, H, d), normed and rotated as queries and as keys."""
        sequences, tokens, heads, width = x.shape
        q, k = torch.zeros_like(x), torch.zeros_like(x)
        cos, sin = (None, None) if tables is None else tables
        table, positions = (torch.float32, 0) if cos is None else (cos.dtype, len(cos))
        self._call(
            "vtp_shim_rows",
            _at(x), TYPES[x.dtype], sequences, tokens, heads, width, _at(norms[0]), _at(norms[1]), _at(cos),
            _at(sin), TYPES[table], positions, ctypes.c_float(eps), ctypes.c_ulonglong(seed), _at(q), _at(k),
        )  # fmt: skip
        return q, k


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())
