"""Captions to token ids: CLIP's byte-pair encoding, as open_clip ships it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 49408
"""Tokens; the last two start and end a caption."""
UNMERGED = 514
"""Tokens that are no merge: 256 bytes, the same at the end of a word, start and end of a caption."""
MERGES = VOCABULARY - UNMERGED
"""Merges of byte pairs, the most frequent first."""
CHARACTERS_PER_TOKEN = 64
"""Twice the longest token: characters beyond `context` times this are cut off before encoding, as the time of
byte-pair merging grows with the square of a word's length."""
REMEMBERED_WORDS = 1 << 18
"""Words whose encoding is kept; beyond it the memory is emptied."""


class CaptionTokenizer:
    """Turns captions into ids. The vocabulary is read at the first call.

    Args:
        context: Ids a caption is padded (with 0) or cut to; start and end token included.
        merges: How many of the merges are applied, the first ones. Rare words then fall into more parts, at
            worst into bytes, and the ids are those below ``merges + 514``.
    """

    def __init__(self, context: int, merges: int = MERGES) -> None:
        if not 0 <= merges <= MERGES:
            raise ValueError(f"merges must be 0 to {MERGES}, got {merges}")
        self.context = context
        self.merges = merges

    def __call__(self, captions: Sequence[str] | str) -> Tensor:
        """Ids (B, context) int64 of captions: cleaned, lower-cased, never longer than the context.

        Any string is taken: an empty one is its start and end token. One alone is a batch of one.
        """
        captions = [captions] if isinstance(captions, str) else captions
        encoding = self._encoding
        if len(encoding.cache) > REMEMBERED_WORDS:
            encoding.cache = {word: word for word in ("<start_of_text>", "<end_of_text>")}
        limit = self.context * CHARACTERS_PER_TOKEN
        ids: Tensor = encoding([self._shortened(caption, limit) for caption in captions], self.context)
        # Only the start and the end token have ids beyond the merges that are left.
        return ids.where(ids < VOCABULARY - 2, ids - (MERGES - self.merges))

    @staticmethod
    def _shortened(caption: str, limit: int) -> str:
        """The caption's start, without characters that no UTF-8 text has."""
        caption = caption[: 16 * limit]  # so that a huge caption costs nothing even to clean
        caption = caption.encode("utf-8", "replace").decode("utf-8")
        return " ".join(caption.split())[:limit]

    @cached_property
    def _encoding(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        encoding = SimpleTokenizer(context_length=self.context)
        encoding.bpe_ranks = {pair: rank for pair, rank in encoding.bpe_ranks.items() if rank < self.merges}
        return encoding
