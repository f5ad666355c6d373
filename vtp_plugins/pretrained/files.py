"""Reads weight files without running code in them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vtp_core.errors import UsageError

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts store the state dict."""
UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError)
"""Errors of the two readers for damaged or foreign files."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote.

    Args:
        path: The file. A torch file is read with ``weights_only=True``.

    Raises:
        UsageError: It is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise UsageError(f"weights {path}: no such file; correct the path or leave `weights` out")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"weights {path}: no file of plain tensors ({reason}); save a state dict") from None
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    values = list(content.values()) if isinstance(content, Mapping) else []
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise UsageError(f"weights {path}: not a state dict (name -> tensor); save the network's")
    return {str(name): tensor for name, tensor in content.items()}


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of names, shapes, dtypes and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]
