"""Writes a tokenizer as a folder of transformers."""

from __future__ import annotations

from pathlib import Path

from vtp_core.artefact.sums import write_sums
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.clip.text import TextTower
from vtp_plugins.transformers.configuration import VtpTokenizerConfig
from vtp_plugins.transformers.image_processor import VtpImageProcessor
from vtp_plugins.transformers.model import VtpTokenizerModel
from vtp_plugins.transformers.text_tokenizer import VtpTextTokenizer


def as_model(tokenizer: Tokenizer) -> VtpTokenizerModel:
    """The tokenizer as a model of transformers, for `save_pretrained`, `push_to_hub` or training.

    Both share their weights, which take gradients from now on.

    Raises:
        UsageError: It was put together by hand and has no config.
    """
    if (artefact := tokenizer.config) is None:
        raise UsageError("format transformers: the tokenizer has no config; build it with config=")
    size = artefact.image_size
    head = tokenizer.exports["embed_text"] if "embed_text" in tokenizer.exports else None
    width = head(["a"]).shape[-1] if isinstance(head, TextTower) else None
    config = VtpTokenizerConfig(
        artefact=artefact.model_dump(mode="json"),
        image_size=size if isinstance(size, int) else list(size),
        patch_size=tokenizer.encoder.patch,
        hidden_size=tokenizer.encoder.width,
        latent_channels=tokenizer.latent_channels,
        projection_dim=width,
        architectures=[VtpTokenizerModel.__name__],
    )
    return VtpTokenizerModel(config, tokenizer)


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes model, image processor and, with a text tower, its tokenizer into an empty folder."""
    frozen = [value.requires_grad for value in tokenizer.parameters()]
    as_model(tokenizer).save_pretrained(folder)
    for value, takes in zip(tokenizer.parameters(), frozen, strict=True):
        value.requires_grad_(takes)
    assert tokenizer.config is not None
    height, width = sides(tokenizer.config.image_size)
    VtpImageProcessor(crop_size={"height": height, "width": width}).save_pretrained(folder)
    tower = tokenizer.exports["embed_text"] if "embed_text" in tokenizer.exports else None
    if isinstance(tower, TextTower):
        captions = tower.tokenizer
        VtpTextTokenizer(captions.context, captions.merges).save_pretrained(folder)
    write_sums(folder, [path.name for path in folder.iterdir()])
