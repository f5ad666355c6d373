"""Loads a tokenizer from a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath

from vtp_core.artefact.loading import load
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer

FILES = (
    "*.json", "*.yaml", "*.yml", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "SHA256SUMS", "NOTICE",
    "README.md",
)  # fmt: skip
"""What is downloaded: configurations, weights and the card with their license; no code."""
FOLDERS = ("heads/*", "critics/*", "encoder", "vae", "vqvae")
"""Folders in that of a tokenizer whose files are downloaded too: an artefact's own, that of an encoder beside
its decoder, and a pipeline's autoencoder."""
PIPELINE = "model_index.json"
"""File of a repository whose own weights are not its autoencoder's."""


def load_from_hub(repository: str, revision: str | None = None, subfolder: str = "") -> Tokenizer:
    """The tokenizer of a repository, as `load` reads a folder; no code of the repository is used.

    Files that the hub's cache has are not downloaded again. ``HF_HUB_OFFLINE=1`` asks the cache alone.

    Args:
        repository: ``"owner/name"``.
        revision: Branch, tag or commit; None: the newest. A commit makes sure that it stays the same.
        subfolder: Its folder in the repository; empty: the repository itself.

    Raises:
        CheckpointError: The files are of no installed format, or damaged.
        UsageError: No name of a repository, or its files could not be downloaded.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(repository)):
        raise UsageError(f'from_hub: expected "owner/name", got {repository!r}; load() takes folders')
    parts = Path(subfolder).parts
    if Path(subfolder).is_absolute() or ".." in parts:
        raise UsageError(f"from_hub: subfolder {subfolder!r} is no folder of the repository")
    try:
        from huggingface_hub import list_repo_files, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UsageError("from_hub: pip install huggingface_hub, or download the files elsewhere") from error
    try:
        try:
            names = needed(list_repo_files(repository, revision=revision), "/".join(parts))
        except HfHubHTTPError:  # the hub's answer, such as that there is no such repository
            raise
        except Exception:  # no network, of which each HTTP client has errors of its own: the cache may do
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        else:
            allowed = [escape(name) for name in names]
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=allowed))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"from_hub: the files of {repository} could not be downloaded ({type(error).__name__}); check "
            "the name and the network, or download them elsewhere and give load() the folder"
        ) from error
    return load(folder.joinpath(*parts))


def needed(files: Iterable[str], subfolder: str = "") -> list[str]:
    """Those of a repository's files that the tokenizer in it, or in a subfolder, may consist of."""
    own = [PurePosixPath(name) for name in files]
    own = [path for path in own if path.is_relative_to(subfolder)]
    inner = {path: path.relative_to(subfolder) for path in own}
    top = {str(path) for path in inner.values()}
    pipeline = PIPELINE in top and "config.json" not in top
    return [str(path) for path, name in inner.items() if _needed(name, pipeline)]


def _needed(name: PurePosixPath, pipeline: bool) -> bool:
    if not any(fnmatchcase(name.name, ending) for ending in FILES):
        return False
    if name.parent == PurePosixPath():
        return not pipeline or name.suffix in (".json", ".md")
    depth = len(name.parent.parts)
    return any(
        depth == len(PurePosixPath(folder).parts) and fnmatchcase(str(name.parent), folder)
        for folder in FOLDERS
    )
