"""Implementations of the nearest-code search: their cases, their signature and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from vtp_core.ops.choice import Choice, Kernel


class RunSearch(Protocol):
    """An implementation of the whole contract of `vtp_core.ops.nearest_code`.

    Arguments were checked and flattened before. `vectors` is (N, D), N >= 1, `codebook` (K, D), of one
    floating dtype, with any strides. `weight` is (D,) float64, contiguous, finite and >= 0, for the metric
    ``weighted``; else None. Returns index (N,) int64 and distance (N,): float64 for float64 inputs, else
    float32.
    """

    def __call__(
        self, vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
    ) -> tuple[Tensor, Tensor]:
        """Index and distance of the nearest codes."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchCase:
    """A case of the search: what the choice of an implementation may depend on.

    Attributes:
        device: Device type, such as ``"cpu"``.
        dtype: Dtype of vectors and codebook.
        rows: Vectors N.
        codes: Codes K.
        width: Width D.
        metric: ``"l2"``, ``"cosine"`` or ``"weighted"``.
        exact: Whether the exact index is asked for.
        index: Which device of its type, None where there is one only.
    """

    device: str
    dtype: torch.dtype
    rows: int
    codes: int
    width: int
    metric: str
    exact: bool
    index: int | None = None


class SearchKernel(Kernel[SearchCase, RunSearch]):
    """One implementation of `nearest_code`."""


_CHOICES: dict[str, SearchChoice] = {}
"""An operator's schema carries strings, not objects. A choice keeps its key as long as the process lives."""


@dataclass(frozen=True)
class SearchChoice(Choice[SearchKernel]):
    """Implementations in order of preference: one if the recipe named it, else all for ``auto``.

    Attributes:
        key: What the operator's schema carries in place of this object; `from_key` returns it.
    """

    key: str = field(init=False, repr=False, compare=False)
    operator = "nearest_code"
    case = SearchCase

    def __post_init__(self) -> None:
        """Assigns the key here: inside torch.compile only the string is read."""
        if not self.kernels:  # an empty string stands for the installed implementations
            raise ValueError("SearchChoice: kernels must name at least one implementation")
        names = ",".join(kernel.name for kernel in self.kernels)
        for number in count():
            key = f"{names}#{number}" if number else names
            if _CHOICES.setdefault(key, self) == self:
                object.__setattr__(self, "key", key)
                return

    @classmethod
    def from_key(cls, key: str) -> SearchChoice:
        """The choice that `key` stands for, in this process."""
        return _CHOICES[key]
