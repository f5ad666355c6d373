"""Image-text contrast over the global batch (Radford et al. 2021, CLIP)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.ops import resample_positions
from vtp_core.parameters import Dims, ParamRule, Resampler
from vtp_core.step import Step
from vtp_plugins.clip.config import ClipConfig
from vtp_plugins.clip.image import ImageHead
from vtp_plugins.clip.loss import contrast, equal_rows
from vtp_plugins.clip.open_clip import read_text_tower
from vtp_plugins.clip.text import TextTower


class Clip(Objective):
    """Each image picks its caption among all captions of the step, and each caption its image.

    Every rank scores its own rows against the gathered rows of all ranks: the loss and its gradient are those
    of the global batch, and no rank holds more than (B, B * W) scores.
    """

    exports: Mapping[str, str] = {
        "embed_image": "image",
        "embed_text": "text",
        "logit_scale": "logit_scale",
    }
    config: ClipConfig

    def __init__(self, config: ClipConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        if config.features == "cls" and not dims.has_cls:
            raise UsageError("clip: the encoder has no class token; set features = 'pooled'")
        embedding = config.embedding or config.width
        self.image = ImageHead(
            dims.channels if config.bottleneck else dims.width,
            embedding,
            config.features,
            "latent" if config.bottleneck else "features",
        )
        self.text = TextTower(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            context=config.context,
            embedding=embedding,
            mlp_ratio=config.mlp_ratio,
            quick_gelu=config.quick_gelu,
            vocabulary=config.tokens,
            merges=config.merges,
            layer_scale=config.layer_scale,
            causal=config.causal,
            pool=config.pool,
            projection=config.projection,
        )
        if config.weights not in (None, "random") and not torch.empty(0).is_meta:
            read_text_tower(self.text, Path(config.weights).expanduser())
        self.logit_scale = nn.Parameter(torch.full((1,), -math.log(config.temperature)))

    def forward(self, step: Step) -> Losses:
        """The mean of both directions' losses; logged: accuracies and the scale."""
        batch = step.batch(self.config.view)
        assert batch.text is not None
        source = (step.tokenize if self.config.bottleneck else step.encode)(self.config.view)
        tokens = self.image.tokens(source)
        ids = self.text.tokenizer(batch.text).to(tokens.device)
        images, texts = step.call(self.image, tokens), step.call(self.text, ids)

        rows = torch.arange(len(ids), device=ids.device)
        own = rows * step.world_size + step.rank  # index in the gathered order
        groups = equal_rows(step.gather(ids)) if self.config.equal_text_mask else None
        scale = self.logit_scale.exp()
        to_text, text_found = contrast(images, step.gather(texts), scale, own, groups)
        to_image, image_found = contrast(texts, step.gather(images), scale, own, groups)
        return Losses(
            terms={"contrast": (step.mean(to_text) + step.mean(to_image)) / 2},
            report={
                "image_to_text": step.mean(text_found.float()),
                "text_to_image": step.mean(image_found.float()),
                "scale": scale.detach().reshape(()),
            },
        )

    def resamplers(self) -> Mapping[str, Resampler]:
        """The learned positions of the text tower."""
        return {"text.positions": resample_positions}

    def rules(self) -> Sequence[ParamRule]:
        """No decay of scale, norms and biases (open_clip); the scale is clamped to 1 .. 100."""
        return (
            ParamRule(pattern="logit_scale", decay=0.0, clamp=(0.0, math.log(100))),
            ParamRule(pattern="*.bias", decay=0.0),
            ParamRule(pattern="*norm*.weight", decay=0.0),
        )
