"""`nearest_code` in C++ (`csrc/cpu/search_*`), on every instruction set and all threads of torch.

The packed codebook of a call is kept for the next. The C++ finds it by a checksum of all the codes, so that
a stale one is never used, and keeps at most eight, of 1 GiB together. Here each is tied to the storage of its
codebook.
"""

from __future__ import annotations

import weakref
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_plugins.kernels.cpu.instruction_set import cpu_isa
from vtp_plugins.kernels.native.loading import why_missing

_WATCHED: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()
"""Storages of codebooks, by address: part of the cache, which must not outlive them."""


def run(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The whole contract, as `vtp_core.ops.nearest_code_choice.RunSearch` states it."""
    _watch(codebook.untyped_storage())
    index, distance = torch.ops.vtp_cpu.nearest_code(vectors, codebook, metric, weight, exact)
    return index, distance


def _watch(storage: torch.UntypedStorage) -> None:
    """Lets go of what is packed from codebooks in a storage as soon as the last tensor on it dies."""
    first = storage.data_ptr()
    if _WATCHED.get(first) is storage:
        return
    _WATCHED[first] = storage
    weakref.finalize(storage, _forget, first, first + storage.nbytes()).atexit = False


def _forget(first: int, last: int) -> None:
    """Drops what was packed from these addresses; whoever traces at that moment must not see it."""
    with _disable_current_modes():
        torch.ops.vtp_cpu.forget_codebook(first, last)


def _refuses(case: SearchCase) -> str | None:
    cpu_isa()  # a wrong VTP_CPU_ISA is a UsageError here, no RuntimeError of C++
    return None


def _suits(case: SearchCase) -> bool:
    return True


KERNEL = SearchKernel(
    name="cpu",
    run=run,
    refuses=_refuses,
    suits=_suits,
    device="cpu",
    missing=partial(why_missing, "_C_cpu"),
)
