"""Every kernel with every tile, and each other kind of launch that compiles to other code.

Not every launch: of a kind there is one width, and dtypes, layouts and metrics aren't all combined. Left out
are offsets in int64, odd strides of attention's inputs, and counts that happen to be 1 or multiples of 16.
"""

from __future__ import annotations

from collections.abc import Iterator

from vtp_plugins.kernels.triton.configuration import ARCHITECTURES
from vtp_plugins.kernels.triton.gate.attention_cases import attention_cases, query_key_cases
from vtp_plugins.kernels.triton.gate.case import GateCase
from vtp_plugins.kernels.triton.gate.search_cases import exact_cases, screen_cases


def all_cases() -> Iterator[GateCase]:
    """The cases in the order of the table."""
    for architecture in ARCHITECTURES:
        yield from attention_cases(architecture)
        yield from query_key_cases(architecture)
        yield from screen_cases(architecture)
        yield from exact_cases(architecture)
