"""Every kernel with every setting that a run may launch it with."""

from __future__ import annotations

from collections.abc import Iterator

from vtp_plugins.kernels.triton.configuration import ARCHITECTURES
from vtp_plugins.kernels.triton.gate.attention_cases import attention_cases, query_key_cases
from vtp_plugins.kernels.triton.gate.case import Case
from vtp_plugins.kernels.triton.gate.search_cases import exact_cases, screen_cases


def all_cases() -> Iterator[Case]:
    """All of them, in the order of the table."""
    for architecture in ARCHITECTURES:
        yield from attention_cases(architecture)
        yield from query_key_cases(architecture)
        yield from screen_cases(architecture)
        yield from exact_cases(architecture)
