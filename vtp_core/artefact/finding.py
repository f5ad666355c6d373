"""The folder or file that a name means: a run's, a tokenizer's, or one that ships. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from vtp_core.artefact.config import is_artefact, read_config
from vtp_core.errors import CheckpointError
from vtp_core.plugins import Plugins
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.tokenizers import locate

TOKENIZER = "tokenizer"
"""Name of the artefact in a run folder."""
FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".json", ".yaml", ".yml")
"""Endings of files of other projects that may be a tokenizer's: the installed formats decide."""


def find_tokenizer(name: str | Path, plugins: Plugins) -> Path:
    """The folder or file of the tokenizer that a name or path means; that of a run is its ``tokenizer``.

    Args:
        name: A run folder, one of its checkpoints (``RUN/checkpoints/best``), an artefact, a folder or file
            of another project, or the name of a shipped tokenizer.
        plugins: Where shipped tokenizers are looked up.

    Raises:
        CheckpointError: There is no such folder, nothing in it that can be a tokenizer, or a damaged or newer
            ``config.json``.
    """
    path = locate(name, plugins)
    if run_of_checkpoint(path) is not None and path.exists():
        return path
    if path.suffix in FILES and path.is_file():
        return path
    if (path / TOKENIZER / "config.json").is_file() and not (path / "config.json").exists():
        return path / TOKENIZER
    if (path / RESOLVED).is_file():
        raise CheckpointError(
            f"{path}: this run has no tokenizer yet; go on with `vtp run {path} --resume`, or take that of "
            f"its newest checkpoint: `vtp export {path} FOLDER`"
        )
    problem = "no such folder" if not path.exists() else "a file" if not path.is_dir() else ""
    if not problem and not any(entry.is_file() for entry in path.iterdir()):
        problem = "no files"
    if problem:
        raise CheckpointError(
            f"{path}: no tokenizer here ({problem}); give the folder of a run or of a tokenizer, or the name "
            "of one that ships"
        )
    if is_artefact(path):
        read_config(path)
    return path


def run_of_checkpoint(path: Path) -> Path | None:
    """The run folder that has `path` among its checkpoints, or None."""
    run = path.parent.parent
    return run if path.parent.name == "checkpoints" and (run / RESOLVED).is_file() else None
