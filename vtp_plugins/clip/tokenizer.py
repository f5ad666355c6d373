"""Captions to token ids: CLIP's byte-pair encoding, as open_clip ships it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 49408
"""Tokens; the last two start and end a caption."""
CHARACTERS_PER_TOKEN = 64
"""Twice the longest token: characters beyond `context` times this are cut off before encoding, as the time of
byte-pair merging grows with the square of a word's length."""
REMEMBERED_WORDS = 1 << 18
"""Words whose encoding is kept; beyond it the memory is emptied."""


class CaptionTokenizer:
    """Turns captions into ids. The vocabulary is read at the first call.

    Args:
        context: Ids a caption is padded (with 0) or cut to; start and end token included.
    """

    def __init__(self, context: int) -> None:
        self.context = context

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Ids (B, context) int64 of captions: cleaned, lower-cased, never longer than the context.

        Any string is taken: an empty one is its start and end token.
        """
        encoding = self._encoding
        if len(encoding.cache) > REMEMBERED_WORDS:
            encoding.cache = {word: word for word in ("<start_of_text>", "<end_of_text>")}
        limit = self.context * CHARACTERS_PER_TOKEN
        ids: Tensor = encoding([self._shortened(caption, limit) for caption in captions], self.context)
        return ids

    @staticmethod
    def _shortened(caption: str, limit: int) -> str:
        """The caption's start, without characters that no UTF-8 text has."""
        caption = caption[: 16 * limit]  # so that a huge caption costs nothing even to clean
        caption = caption.encode("utf-8", "replace").decode("utf-8")
        return " ".join(caption.split())[:limit]

    @cached_property
    def _encoding(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self.context)
