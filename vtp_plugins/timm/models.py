"""Encoders with timm's interface; importing this module registers the architecture ``vtp_encoder`` with timm.

    import timm, vtp_plugins.timm.models

    model = timm.create_model("local-dir:exported/", pretrained=True)    # of `vtp export --format timm`

Shapes: B images, N tokens of width D, h x w patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.plugins import load_plugins
from vtp_core.recipe.history import update_table
from vtp_core.recipe.reading.component import read_component

ARCHITECTURE = "vtp_encoder"


class EncoderModule(nn.Module):
    """An encoder as a model of timm. Pixels are ImageNet-normalised, sides are multiples of the patch.

    Args:
        encoder: Its table, of which it is built untrained; or an encoder, whose weights are then shared.
        num_classes: Outputs of a linear classifier; 0: none.
        global_pool: ``"token"``, ``"avg"`` of patches, or ``""``; None: the class token if there is one.
        in_chans: 3.
        drop_rate: Of the classifier's input.

    Attributes:
        num_features: D.
        num_prefix_tokens: 1 with a class token, else 0.
        feature_info: Channels and reduction of each block's output.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any] | Encoder,
        num_classes: int = 0,
        global_pool: str | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise ValueError(f"{ARCHITECTURE}: takes images of 3 channels, not {in_chans}")
        self.encoder = encoder if isinstance(encoder, Encoder) else _built(encoder)
        self.num_features = self.embed_dim = self.head_hidden_size = self.encoder.width
        self.num_prefix_tokens = int(self.encoder.has_cls)
        widths = self.encoder.tap_widths or (self.encoder.width,) * self.encoder.depth
        self.feature_info = [
            {"module": f"blocks.{block}", "num_chs": width, "reduction": self.encoder.patch}
            for block, width in enumerate(widths[: self.encoder.depth])
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of classes, pooled features (B, D), or tokens without pooling."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) after the final norm, the class token first."""
        (tokens,) = self.encoder([x.unsqueeze(1)], [None])
        patches = tokens.patches[:, 0]
        return patches if tokens.cls is None else torch.cat((tokens.cls, patches), 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools tokens (B, N, D) and, unless `pre_logits`, classifies them."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x[:, self.num_prefix_tokens :].mean(1)
        x = self.head_drop(x)
        scores: Tensor = x if pre_logits else self.head(x)
        return scores

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of blocks, as timm's models return them.

        Args:
            x: (B, 3, H, W).
            indices: How many of the last blocks, or which; None: all.
            return_prefix_tokens: Whether each entry is (patches, class token (B, 1, D)).
            norm: Whether the final norm is applied to each; as `return_prefix_tokens`, for encoders whose
                single blocks can be read (`Encoder.has_intermediate`).
            stop_early: Not used: all blocks run.
            output_fmt: ``"NCHW"`` for (B, D, h, w), ``"NLC"`` for (B, N, D).
            intermediates_only: Leaves the final tokens out.

        Returns:
            The entries, or (final tokens, entries).
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"{ARCHITECTURE}: output_fmt is 'NCHW' or 'NLC', not {output_fmt!r}")
        depth = self.encoder.depth
        if isinstance(indices, int):
            indices = range(depth - indices, depth)
        blocks = [block % depth for block in (range(depth) if indices is None else indices)]
        if not (indices is None or all(-depth <= block < depth for block in indices)):
            raise ValueError(f"{ARCHITECTURE}: indices are of {depth} blocks, got {list(indices)}")
        grid = self.encoder.grid(*x.shape[-2:])
        prefix = self.num_prefix_tokens if self.encoder.has_intermediate else 0
        if self.encoder.has_intermediate:
            found = self.encoder.intermediate(x, tuple(sorted(set(blocks))), normed=norm)
            taps = [found[block] for block in blocks]
        elif norm or return_prefix_tokens:
            raise ValueError(f"{ARCHITECTURE}: this encoder gives patches of blocks before its norm alone")
        else:
            (tokens,) = self.encoder([x.unsqueeze(1)], [None], layers=tuple(sorted(set(blocks))))
            taps = [tokens.layers[block][:, 0] for block in blocks]
        entries: list[Any] = []
        for tap in taps:
            patches = tap[:, prefix:]
            if output_fmt == "NCHW":
                patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
            entries.append((patches, tap[:, :prefix]) if return_prefix_tokens else patches)
        return entries if intermediates_only else (self.forward_features(x), entries)

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; `global_pool` None keeps the pooling."""
        default = getattr(self, "global_pool", "token" if self.num_prefix_tokens else "avg")
        self.num_classes, self.global_pool = num_classes, default if global_pool is None else global_pool
        if self.global_pool not in ("", "avg", "token") or (
            self.global_pool == "token" and not self.num_prefix_tokens
        ):
            raise ValueError(f"{ARCHITECTURE}: can't pool by {self.global_pool!r}")
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused when asked for: blocks are checkpointed by `vtp run` alone."""
        if enable:
            raise ValueError(f"{ARCHITECTURE}: gradient checkpointing is not supported")


@register_model
def vtp_encoder(pretrained: bool = False, **kwargs: Any) -> Any:
    """An `EncoderModule`; ``encoder`` is its table, with ``pretrained`` weights from a folder."""
    return build_model_with_cfg(
        EncoderModule,
        ARCHITECTURE,
        pretrained,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **kwargs,
    )


def _built(table: Mapping[str, Any]) -> Encoder:
    plugins = load_plugins()
    config = read_component("encoder", update_table("encoder", dict(table), plugins), plugins).restored()
    encoder: Encoder = plugins.find("encoder", config.use).load_target()(config)
    return encoder
