"""The tokenizer of the text tower, with the ids of `CaptionTokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizer

from vtp_core.errors import UsageError
from vtp_plugins.clip.tokenizer import MERGES, UNMERGED, CaptionTokenizer

START, END = "<start_of_text>", "<end_of_text>"


class VtpTextTokenizer(PreTrainedTokenizer):
    """CLIP's byte-pair encoding. Captions are cleaned and lower-cased.

    A call always truncates and pads with 0 to `context` ids, which is what the text tower takes. The
    vocabulary is that of open_clip, so no file holds it.

    Args:
        context: Ids of a caption.
        merges: Merges in use.
        settings: Those of transformers.
    """

    model_input_names = ["input_ids", "attention_mask"]
    vocab_files_names: Mapping[str, str] = {}

    def __init__(self, context: int = 77, merges: int = MERGES, **settings: Any) -> None:
        self.captions = CaptionTokenizer(context, merges)
        self._words = self._vocabulary()
        self._ids = {word: number for number, word in enumerate(self._words)}
        tokens = {"bos_token": START, "eos_token": END, "pad_token": self._words[0]}
        settings = {**settings, **tokens, "model_max_length": context}
        super().__init__(context=context, merges=merges, **settings)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: Any = "max_length",
        truncation: Any = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        **settings: Any,
    ) -> BatchEncoding:
        """Ids of captions; one caption gives one row without a batch, with tensors a batch of one.

        Args:
            text: Captions.
            padding: Not used: rows always have `context` ids.
            truncation: Not used, likewise.
            max_length: None or `context`.
            return_tensors: ``"pt"`` or ``"np"``.
            return_attention_mask: Whether to return the mask, 1 up to the end of the caption.
            settings: None is known.

        Raises:
            TypeError: Another setting.
            UsageError: Another length.
        """
        if settings:
            raise TypeError(f"{type(self).__name__} has no setting {next(iter(settings))!r}")
        if max_length not in (None, self.captions.context):
            raise UsageError(
                f"{type(self).__name__}: the text tower takes {self.captions.context} ids, not {max_length}"
            )
        one = isinstance(text, str)
        ids = self.captions(text)
        ends = ids.argmax(1, keepdim=True)
        mask = (ids.new_ones(ids.shape).cumsum(1) - 1 <= ends).long()
        rows: dict[str, Any] = {"input_ids": ids.tolist()}
        if return_attention_mask:
            rows["attention_mask"] = mask.tolist()
        if one and return_tensors is None:
            rows = {name: value[0] for name, value in rows.items()}
        return BatchEncoding(rows, tensor_type=return_tensors)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.captions.merges + UNMERGED

    def get_vocab(self) -> dict[str, int]:
        """Word piece -> id."""
        return dict(self._ids)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes nothing: open_clip has the vocabulary."""
        return ()

    def _vocabulary(self) -> list[str]:
        """Word pieces by id."""
        encoder = self.captions.encoding.encoder
        pieces = sorted(encoder, key=encoder.__getitem__)
        return [*pieces[: self.vocab_size - 2], START, END]

    def _tokenize(self, text: str, **settings: Any) -> list[str]:
        ids = CaptionTokenizer(len(text) * 4 + 2, self.captions.merges)(text)[0].tolist()
        return [self._words[number] for number in ids[1 : ids.index(max(ids))]]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[END])

    def _convert_id_to_token(self, index: int) -> str:
        return self._words[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of word pieces."""
        decoder = self.captions.encoding.byte_decoder
        joined = "".join(token for token in tokens if token not in (START, END))
        text = bytearray(decoder[letter] for letter in joined).decode("utf-8", errors="replace")
        return text.replace("</w>", " ").strip()
