"""What is stated of the license of weights that another project published."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from vtp_core.artefact.config import is_export
from vtp_core.tokenizer import Tokenizer

NOT_STATED = "not stated by its files; ask the owner"
CARD_BYTES = 1_000_000
"""Largest ``README.md`` that is read."""


def state_license(model: Tokenizer, path: Path, published: str) -> None:
    """Puts what is stated of the license into the config of a tokenizer of another project's files.

    Args:
        model: The tokenizer.
        path: Its folder or file; one that was written here is left out, as its weights may be anyone's.
        published: What its format says of the published weights; or empty.
    """
    if model.config is None or model.config.license or is_export(path):
        return
    found = _of_card(path if path.is_dir() else path.parent) or published
    if found or not model.encoder.notices():  # notices stand for themselves
        model.config = model.config.model_copy(update={"license": found or NOT_STATED})


def license_of(model: Tokenizer) -> str:
    """What is stated of the license of its weights: by its config, else by its encoder; or empty."""
    stated = "" if model.config is None else model.config.license
    return stated or "; ".join(model.encoder.notices())


def _of_card(folder: Path) -> str:
    """The license in the front matter of a folder's ``README.md``, as cards of the Hub have it; or empty."""
    path = folder / "README.md"
    try:
        if not path.is_file() or path.stat().st_size > CARD_BYTES:
            return ""
        start, *parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
        front = yaml.safe_load(parts[0]) if not start.strip() and len(parts) == 2 else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return ""
    if not isinstance(front, dict):
        return ""
    named = [front[key] for key in ("license", "license_name") if isinstance(front.get(key), str)]
    text = " ".join(" ".join(named).split())[:100]
    return f"{text}, says {path.name} beside them" if text else ""
