"""The published model as a tokenizer, with the method names of its release.

Shapes: B images, D encoder width, d latent channels, h x w = N patches, T tokens a caption, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.artefact.license import state_license
from vtp_core.errors import UsageError
from vtp_core.features import Features
from vtp_core.parameters import Dims
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_weights, checked_pixels
from vtp_plugins.clip.image import ImageHead
from vtp_plugins.clip.text import TextTower
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.vit.config import VitDecoderConfig, VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder
from vtp_plugins.vtp.config import VTPConfig
from vtp_plugins.vtp.options import TRAINED_LOGIT_SCALE, RopeDtype
from vtp_plugins.vtp.reader import LICENSE, read_model
from vtp_plugins.vtp.writer import write_model


class VTPModel(Tokenizer):
    """A `Tokenizer` that also answers to the names of the published class.

    `VTPModel(config)` has fresh weights and is in training mode; `from_pretrained` and `vtp_core.load` return
    it in evaluation mode, without gradients (``model.requires_grad_()`` to train it).

    Attributes:
        config: The published configuration; also what `save` needs.
        logit_bias: (1,) bias of the contrastive scores, or None.
        periods: Published name -> rotary periods read from a file, where the float32 option doesn't use them.
    """

    config: VTPConfig
    encoder: VitEncoder
    bottleneck: LinearBottleneck
    decoder: VitDecoder | None

    def __init__(self, config: VTPConfig | None = None) -> None:
        config = config if config is not None else VTPConfig()
        encoder = VitEncoder(VitEncoderConfig.model_validate(config.encoder))
        dims = Dims(width=encoder.width, patch=encoder.patch, depth=encoder.depth, has_cls=True)
        bottleneck = LinearBottleneck(LinearConfig.model_validate(config.bottleneck), dims)
        decoder = None
        if config.decoder is not None:
            table = VitDecoderConfig.model_validate(config.decoder)
            decoder = VitDecoder(table, replace(dims, channels=bottleneck.channels))
        exports = _heads(config) if config.train_clip else {}
        super().__init__(encoder, bottleneck, decoder, exports, config=config)
        bias = config.init_logit_bias if config.train_clip else None
        self.logit_bias = None if bias is None else nn.Parameter(torch.full((1,), bias))
        self.periods: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, rope_dtype: RopeDtype | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Reads a folder with ``config.json`` and ``model.safetensors``, in evaluation mode on the CPU.

        Args:
            folder: The folder, or the name of a Hub repository such as ``"MiniMaxAI/VTP-Large-f16d64"``.
            rope_dtype: ``"float32"`` computes the rotary positions exactly, which moves the outputs; None: as
                the weights were trained, bfloat16.
            dtype: Floating type of the weights; None: float32.

        Raises:
            CheckpointError: Damaged, not finite, or config and weights of different models; the key is named.
            UsageError: No such folder, and it can't be downloaded.
        """
        model = read_model(cls, folder, rope_dtype)
        check_weights(folder, model)
        state_license(model, Path(folder), LICENSE)
        return model if dtype is None else model.to(dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors`` in the published layout; `save` writes our own."""
        write_model(self, self.config, Path(folder), self.periods)

    @property
    def trunk(self) -> VitEncoder:
        """The encoder, without the bottleneck."""
        return self.encoder

    @property
    def pixel_decoder(self) -> VitDecoder | None:
        """The decoder, if there is one."""
        return self.decoder

    @property
    def text_transformer(self) -> nn.ModuleList | None:
        """The blocks of the text tower, if there is one."""
        return self.text.blocks if "embed_text" in self.exports else None

    @property
    def text(self) -> TextTower:
        """The text tower."""
        tower = self._export("embed_text")
        assert isinstance(tower, TextTower)
        return tower

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the contrastive scale, (1,)."""
        scale: Tensor = self._export("logit_scale").get_parameter("logit_scale")
        return scale

    def get_reconstruction_latents(self, image: Tensor) -> Tensor:
        """Latents (B, d, h, w) of ImageNet-normalised images (B, 3, H, W)."""
        return self.encode(image).latent

    def get_latents_decoded_images(self, latents: Tensor) -> Tensor:
        """ImageNet-normalised images (B, 3, 16 h, 16 w), unclamped, of latents (B, d, h, w)."""
        return self.decode(latents).sample

    def get_clip_image_feature(self, image: Tensor, normalize: bool = True) -> Tensor:
        """Image embeddings (B, E), of length 1 with `normalize`."""
        head = self._export("embed_image")
        assert isinstance(head, ImageHead)
        features = self.features(image)
        projected = head.project(self.bottleneck(features) if head.reads == "latent" else features)
        return F.normalize(projected, dim=-1) if normalize else projected

    def get_clip_text_feature(self, text: Tensor, normalize: bool = True) -> Tensor:
        """Text embeddings (B, E), or (B, T, E) without pooling, of token ids (B, T) from `get_tokenizer`.

        Raises:
            UsageError: T is not the tower's context, or an id (looked at on a CPU) not in its vocabulary.
        """
        tower = self.text
        context = tower.positions.shape[0]
        if text.dim() != 2 or text.shape[1] != context:
            raise UsageError(
                f"get_clip_text_feature: expected token ids (B, {context}), got {tuple(text.shape)}; "
                f"use get_tokenizer(context_length={context})"
            )
        known = tower.token_embedding.num_embeddings
        if text.device.type == "cpu" and len(text) and not 0 <= int(text.min()) <= int(text.max()) < known:
            raise UsageError(
                f"get_clip_text_feature: ids are {int(text.min())} to {int(text.max())}, but this model "
                f"has {known} tokens; its captions need the tokenizer that it was trained with"
            )
        projected = tower.project(text)
        return F.normalize(projected, dim=-1) if normalize else projected

    def get_clip_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of images against captions (B, C) and their transpose."""
        images, texts = self.get_clip_image_feature(image), self.get_clip_text_feature(text)
        logits = self.logit_scale.exp() * images @ texts.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return logits, logits.T

    def get_last_layer_feature(self, image: Tensor, use_bottleneck: bool = False) -> dict[str, Tensor]:
        """The final tokens.

        Args:
            image: (B, 3, H, W), ImageNet-normalised.
            use_bottleneck: Whether they go through the bottleneck.

        Returns:
            ``"cls_token"`` (B, D) and ``"patch_tokens"`` (B, N, D), d instead of D after the bottleneck.
        """
        features: Features = self.features(image)
        tokens = (self.bottleneck(features) if use_bottleneck else features)["global"]
        assert tokens.cls is not None
        return {"cls_token": tokens.cls[:, 0], "patch_tokens": tokens.patches[:, 0]}

    def get_intermediate_layers_feature(
        self,
        image: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Outputs of encoder blocks, first to last.

        Args:
            image: (B, 3, H, W), ImageNet-normalised.
            n: How many of the last blocks, or which blocks (0-based).
            reshape: Patches as a map (B, D, h, w) instead of (B, N, D).
            return_class_token: Whether each entry is (patches, class token (B, D)) instead of patches.
            norm: Whether the final norm is applied.

        Raises:
            UsageError: There are fewer blocks, or none is asked for.
        """
        depth = self.encoder.depth
        blocks = range(depth - n, depth) if isinstance(n, int) else n
        if not blocks or not all(0 <= block < depth for block in blocks):
            raise UsageError(f"get_intermediate_layers_feature: n = {n}, but the encoder has {depth} blocks")
        image = checked_pixels("get_intermediate_layers_feature", image, self.encoder.patch, self.encoder)
        outputs = self.encoder.intermediate(image, tuple(blocks), normed=norm)
        grid = (image.shape[2] // self.encoder.patch, image.shape[3] // self.encoder.patch)
        entries: list[Any] = []
        for block in blocks:
            patches = outputs[block][:, 1:]
            if reshape:
                patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
            entries.append((patches, outputs[block][:, 0]) if return_class_token else patches)
        return tuple(entries)


def _heads(config: VTPConfig) -> dict[str, nn.Module]:
    reads: Literal["features", "latent"] = "features" if config.vision_bottleneck_ae_only else "latent"
    scale = torch.full((1,), config.init_logit_scale or TRAINED_LOGIT_SCALE)
    return {
        "embed_image": ImageHead(
            config.vision_embed_dim if reads == "features" else config.channels,
            config.text_embed_dim,
            config.vision_clip_feat,
            reads,
        ),
        "embed_text": TextTower(
            width=config.text_embed_dim,
            depth=config.text_depth,
            heads=config.text_num_heads,
            context=config.text_positions,
            embedding=config.text_embed_dim,
            mlp_ratio=config.text_mlp_ratio,
            quick_gelu=config.text_quick_gelu,
            vocabulary=config.text_vocab_size,
            layer_scale=config.text_ls_init_value,
            causal=not config.text_no_causal_mask,
            pool=config.text_pool_type,
            projection=config.text_projection,
        ),
        "logit_scale": nn.ParameterDict({"logit_scale": nn.Parameter(scale)}),
    }
