"""The text tokenizer of the published models, under its published name."""

from __future__ import annotations

from vtp_core.errors import UsageError
from vtp_plugins.clip.tokenizer import CaptionTokenizer

CONTEXT = 77
"""Tokens a caption by default."""


def get_tokenizer(model_name: str = "ViT-B-32", context_length: int | None = None) -> CaptionTokenizer:
    """CLIP's byte-pair encoding: call it with captions, it returns ids (B, context_length) int64.

    Args:
        model_name: Name of an open_clip model with CLIP's own tokenizer; all have the same one.
        context_length: Ids a caption is padded or cut to, ``model.config.text_context_length``; None: 77.

    Raises:
        UsageError: A model whose tokenizer is another one.
    """
    from open_clip import get_model_config

    config = get_model_config(model_name)
    if (
        config is None
        or "hf_tokenizer_name" in config["text_cfg"]
        or "tokenizer_kwargs" in config["text_cfg"]
    ):
        raise UsageError(
            f"get_tokenizer: {model_name!r} does not use CLIP's tokenizer, which VTP needs; take 'ViT-B-32'"
        )
    return CaptionTokenizer(CONTEXT if context_length is None else context_length)
