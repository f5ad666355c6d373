"""Loads a tokenizer from a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from vtp_core.artefact.loading import load
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer

FILES = (
    "*.json", "*.yaml", "*.yml", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "SHA256SUMS", "NOTICE",
)  # fmt: skip
"""What is downloaded: configurations and weights, and no code."""


def load_from_hub(repository: str, revision: str | None = None, subfolder: str = "") -> Tokenizer:
    """The tokenizer of a repository, as `load` reads a folder; no code of the repository is used.

    Files that the hub's cache has are not downloaded again. ``HF_HUB_OFFLINE=1`` asks the cache alone.

    Args:
        repository: ``"owner/name"``.
        revision: Branch, tag or commit; None: the newest. A commit makes sure that it stays the same.
        subfolder: Its folder in the repository; empty: the repository itself.

    Raises:
        CheckpointError: The files are of no installed format, or damaged.
        UsageError: No name of a repository, or its files can't be had.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(repository)):
        raise UsageError(f'from_hub: expected "owner/name", got {repository!r}; load() takes folders')
    parts = Path(subfolder).parts
    if Path(subfolder).is_absolute() or ".." in parts:
        raise UsageError(f"from_hub: subfolder {subfolder!r} is no folder of the repository")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError("from_hub: pip install huggingface_hub, or download the files elsewhere") from error
    patterns = [f"{subfolder.rstrip('/')}/{ending}" for ending in FILES] if parts else list(FILES)
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"from_hub: the files of {repository} can't be had ({type(error).__name__}); check the name and "
            "the network, or download them elsewhere and give load() the folder"
        ) from error
    return load(folder.joinpath(*parts))
