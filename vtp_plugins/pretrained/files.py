"""Reads weight files without running code in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.pretrained.published import checked, read_tensors, unpickled

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts store the state dict."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote.

    Args:
        path: The file, read as `vtp_plugins.pretrained.published.read_tensors` does.

    Raises:
        UsageError: It is missing, damaged, holds anything but named tensors, or claims more than its size.
    """
    if not path.is_file():
        raise UsageError(f"weights {path}: no such file; correct the path or leave `weights` out")
    try:
        if path.suffix == ".safetensors":
            return read_tensors(path)
        content = unpickled(path)
        for key in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        return checked(content, path)
    except CheckpointError as error:
        raise UsageError(f"weights {error}") from None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of names, shapes, dtypes and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]
