"""`nearest_code` in C++ (`csrc/cpu/search_*`), on every instruction set and all threads of torch.

The packed codebook of a call is cached for the next. The C++ looks it up by a checksum of all codes, so a
stale one is never used, and keeps at most eight, 1 GiB in total. This module drops each when the storage of
its codebook is freed.
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
"""Storages of cached codebooks, by address."""


def run(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The whole contract, as `vtp_core.ops.nearest_code_choice.RunSearch` states it."""
    _watch(codebook.untyped_storage())
    index, distance = torch.ops.vtp_cpu.nearest_code(vectors, codebook, metric, weight, exact)
    return index, distance


def _watch(storage: torch.UntypedStorage) -> None:
    """Drops the packed copies of codebooks in a storage when the storage is freed."""
    first = storage.data_ptr()
    if _WATCHED.get(first) is storage:
        return
    _WATCHED[first] = storage
    weakref.finalize(storage, _forget, first, first + storage.nbytes()).atexit = False


def _forget(first: int, last: int) -> None:
    """Drops packed copies of codebooks at these addresses, hidden from a trace that runs at that moment."""
    with _disable_current_modes():
        torch.ops.vtp_cpu.forget_codebook(first, last)


def _refuses(case: SearchCase) -> str | None:
    cpu_isa()  # raises UsageError for a wrong VTP_CPU_ISA, before C++ raises RuntimeError
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
