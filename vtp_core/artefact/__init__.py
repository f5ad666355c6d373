"""The artefact folder: what a trained tokenizer is handed over as. Imports no torch."""

from vtp_core.artefact.config import ArtefactConfig, Head

__all__ = ["ArtefactConfig", "Head"]
