"""Writes a tokenizer as a folder of transformers."""

from __future__ import annotations

import json
from pathlib import Path

from vtp_core.artefact.sums import write_sums
from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.clip.text import TextTower
from vtp_plugins.clip.tokenizer import UNMERGED
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
    tower, width = _tower(tokenizer), None
    if tower is not None:
        projection = tower.projection
        width = tower.positions.shape[1] if projection is None else projection.out_features
    # Without the fingerprint, which the model would keep when it is trained further.
    config = VtpTokenizerConfig(
        artefact=json.loads(artefact.model_copy(update={"fingerprint": None}).dump()),
        image_size=size if isinstance(size, int) else list(size),
        patch_size=tokenizer.encoder.patch,
        hidden_size=tokenizer.encoder.width,
        latent_channels=tokenizer.latent_channels,
        projection_dim=width,
        architectures=[VtpTokenizerModel.__name__],
    )
    return VtpTokenizerModel(config, tokenizer)


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes model, image processor and, if the text tower has CLIP's vocabulary, its tokenizer."""
    frozen = [value.requires_grad for value in tokenizer.parameters()]
    as_model(tokenizer).save_pretrained(folder)
    for value, takes in zip(tokenizer.parameters(), frozen, strict=True):
        value.requires_grad_(takes)
    assert tokenizer.config is not None
    height, width = sides(tokenizer.config.image_size)
    VtpImageProcessor(crop_size={"height": height, "width": width}).save_pretrained(folder)
    tower = _tower(tokenizer)
    if tower is not None and tower.token_embedding.num_embeddings >= tower.tokenizer.merges + UNMERGED:
        captions = tower.tokenizer
        VtpTextTokenizer(captions.context, captions.merges).save_pretrained(folder)
    write_sums(folder, [path.name for path in folder.iterdir()])


def _tower(tokenizer: Tokenizer) -> TextTower | None:
    tower = tokenizer.exports["embed_text"] if "embed_text" in tokenizer.exports else None
    return tower if isinstance(tower, TextTower) else None
