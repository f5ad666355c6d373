"""A trained tokenizer: its calls, what they accept, and the conversion between images and pixels."""

from vtp_core.tokenizer.model import Tokenizer

__all__ = ["Tokenizer"]
