"""Builds an artefact's networks on the meta device, to check their sizes before memory is allocated."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError, VtpError
from vtp_core.plugins import Plugins
from vtp_core.tokenizer import Tokenizer

SPARE_BYTES = 2**29
"""Bytes allowed for parts without stored weights: heads that are not exported, tables of positions."""
SPARE_PARTS = 4000
"""Modules and tensors allowed beyond 16 per stored tensor."""


@dataclass
class _Count:
    parts: int = 0
    bytes: int = 0


def outline(config: ArtefactConfig, plugins: Plugins, shapes: Mapping[str, tuple[int, ...]]) -> Tokenizer:
    """The tokenizer on the meta device: names and shapes of its weights, without memory.

    Args:
        config: The artefact's.
        plugins: Where its components are looked up.
        shapes: Shapes of all tensors in the artefact's weight files, by name; they limit what may be built.

    Raises:
        CheckpointError: The config describes larger networks than the files hold, or can't be built.
        UsageError: A component that is not installed.
    """
    most = SPARE_PARTS + 16 * len(shapes)
    try:
        with torch.device("meta"), _counted(most) as count:
            tokenizer = assemble(config, plugins)
    except VtpError:
        raise
    except Exception as error:  # constructors raise anything for invalid sizes
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise CheckpointError(
            f"config.json: its networks can't be built ({type(error).__name__}: {reason}); it was edited, or "
            "a plugin's constructor reads values of tensors, which have none on the meta device"
        ) from error
    # What the state dict leaves out is read from elsewhere by the component, which checks it.
    stored = tokenizer.state_dict(keep_vars=True)
    count.bytes -= sum(
        p.numel() * p.element_size() for n, p in tokenizer.named_parameters() if n not in stored
    )
    if count.bytes > (held := 8 * sum(map(math.prod, shapes.values()))) + SPARE_BYTES:
        raise CheckpointError(
            f"config.json: its networks take {count.bytes / 2**30:.1f} GiB, but the weights' files hold "
            f"{held / 2**30:.2g} GiB at most; config.json and weights are of different models"
        )
    return tokenizer


@contextmanager
def _counted(most: int) -> Iterator[_Count]:
    """Counts modules, parameters and buffers as this thread registers them; stops at `most`."""
    count, thread = _Count(), threading.get_ident()

    def hook(_: nn.Module, __: str, part: Any) -> None:
        if threading.get_ident() != thread or part is None:
            return
        count.parts += 1
        if isinstance(part, torch.Tensor):
            count.bytes += part.numel() * part.element_size()
        if count.parts > most:
            raise CheckpointError(
                f"config.json: its networks have more than {most} parts, far more than the weights' files "
                "hold; config.json and weights are of different models"
            )

    handles = [
        registration.register_module_module_registration_hook(hook),
        registration.register_module_parameter_registration_hook(hook),
        registration.register_module_buffer_registration_hook(hook),
    ]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
