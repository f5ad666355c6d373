"""CLIP's byte-pair encoding of captions, from open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 49408
"""Number of tokens; the last two are start and end of a caption."""
UNMERGED = 514
"""Tokens that are not merges: 256 bytes, 256 bytes at the end of a word, start and end of a caption."""
MERGES = VOCABULARY - UNMERGED
"""Number of byte-pair merges, the most frequent first."""
CHARACTERS_PER_TOKEN = 64
"""Characters per token that are kept, twice the longest token: longer captions are truncated before encoding,
as the time of byte-pair merging is quadratic in a word's length."""
REMEMBERED_WORDS = 1 << 18
"""Words in the cache of encodings, which is emptied when it is full."""


class CaptionTokenizer:
    """Encodes captions as ids. The vocabulary is read at the first call.

    Args:
        context: Ids to which a caption is padded (with 0) or truncated, including start and end token.
        merges: Number of merges in use, the first ones; ids are below ``merges + 514``.
    """

    def __init__(self, context: int, merges: int = MERGES) -> None:
        if not 0 <= merges <= MERGES:
            raise ValueError(f"merges must be 0 to {MERGES}, got {merges}")
        self.context = context
        self.merges = merges

    def __call__(self, captions: Sequence[str] | str) -> Tensor:
        """Ids (B, context) int64 of captions: cleaned, lower-cased, never longer than the context.

        An empty string is its start and end token; a single string is a batch of one.
        """
        captions = [captions] if isinstance(captions, str) else captions
        encoding = self.encoding
        if len(encoding.cache) > REMEMBERED_WORDS:
            encoding.cache = {word: word for word in ("<start_of_text>", "<end_of_text>")}
        limit = self.context * CHARACTERS_PER_TOKEN
        ids: Tensor = encoding([self._shortened(caption, limit) for caption in captions], self.context)
        # Only the start and the end token have ids beyond the merges in use.
        return ids.where(ids < VOCABULARY - 2, ids - (MERGES - self.merges))

    @staticmethod
    def _shortened(caption: str, limit: int) -> str:
        """The start of a caption, without characters that UTF-8 can't encode."""
        caption = caption[: 16 * limit]  # before cleaning, which is slow for a huge caption
        caption = caption.encode("utf-8", "replace").decode("utf-8")
        return " ".join(caption.split())[:limit]

    @cached_property
    def encoding(self) -> Any:
        """The encoder of open_clip, with the merges in use."""
        from open_clip.tokenizer import SimpleTokenizer

        encoding = SimpleTokenizer(context_length=self.context)
        encoding.bpe_ranks = {pair: rank for pair, rank in encoding.bpe_ranks.items() if rank < self.merges}
        return encoding
