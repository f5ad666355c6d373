"""Reads and roundings that mean the same compiled and interpreted.

Triton's interpreter keeps bfloat16 as its bits, computes on those as if they were integers, and rounds to it
by cutting. So, interpreted, a value in bfloat16 is a float32 whose lower half is zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether the kernels run in the interpreter; settled at import, as Triton does itself."""


@triton.jit
def computable(values):
    """Values as they are; interpreted bfloat16 as float32."""
    if INTERPRETED:
        if values.dtype == tl.bfloat16:
            values = values.to(tl.float32)
    return values


@triton.jit
def read(pointer, mask):
    """Values in the dtype of `pointer`, 0 where `mask` is false; interpreted bfloat16 as float32."""
    return computable(tl.load(pointer, mask=mask, other=0.0))


@triton.jit
def read_all(pointer):
    """Values in the dtype of `pointer`; interpreted bfloat16 as float32."""
    return computable(tl.load(pointer))


@triton.jit
def rounded(values, dtype: tl.constexpr):
    """Values rounded to `dtype`, ties to even; interpreted bfloat16 stays in float32."""
    if INTERPRETED:
        if dtype == tl.bfloat16:
            values = values.to(tl.float32)
            bits = values.to(tl.uint32, bitcast=True)
            nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            finite = (bits & 0x7F800000) != 0x7F800000
            return tl.where(finite, nearest, bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
def write(pointer, values, mask):
    """Stores `values`, rounded to the dtype of `pointer`."""
    tl.store(pointer, rounded(values, pointer.dtype.element_ty), mask=mask)
