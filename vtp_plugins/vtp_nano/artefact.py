"""Where the artefact of VTP-Nano lies. Imports no torch."""

from pathlib import Path


def folder() -> Path:
    """The artefact folder in the installed package; `docs/vtp_nano.md` says how it came about."""
    return Path(__file__).parent / "data"
