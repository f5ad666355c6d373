"""The `vit` encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.features import Tokens
from vtp_core.ops import AttentionChoice, resample_patch_embedding
from vtp_core.parameters import ParamRule, Resampler
from vtp_plugins.vit.attention import CropRows, Layout
from vtp_plugins.vit.block import Block, initialize
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.norm import make_norm
from vtp_plugins.vit.rope import AxialRope


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each: (R, 3, H, W) to (R, N, D), row-major."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(R, 3, H, W) to (R, N, D)."""
        y: Tensor = self.proj(images)
        return y.flatten(2).transpose(1, 2)


class VitEncoder(Encoder):
    """Vision transformer: class token, patches of any grid, 2-D rotary positions on the patches.

    The tokens of all crop sets form one packed tensor (T, D): projections, norms and feed-forward layers run
    once on it; attention too where its implementation packs, else once a crop set. The residual stream keeps
    the parameters' dtype under autocast.
    """

    has_cls: bool
    has_intermediate = True

    def __init__(self, config: VitEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.depth = config.width, config.patch, config.depth
        self.has_cls = config.cls_token
        self.patch_embed = PatchEmbed(config.width, config.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width)) if config.cls_token else None
        self.mask_token = nn.Parameter(torch.empty(1, config.width))
        self.rope_embed = AxialRope(
            config.head_width, base=config.rope_base, dtype=config.rope_dtype, saved=config.rope_periods_saved
        )
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(Block(config, config.drop_path_mode) for _ in range(config.depth))
        self.norm = make_norm(config.norm, config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        self.apply(initialize)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        nn.init.zeros_(self.mask_token)

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use (`vtp_core.ops.attention_choice`)."""
        for block in self.modules():
            if isinstance(block, Block):
                block.attn.implementation = implementation

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.block)

    def rules(self) -> Sequence[ParamRule]:
        """No decay of the tokens; layer decay and the patch embedding's factor (DINOv2).

        Block i learns at ``layer_decay ** (depth - i)`` of the rate, patch embedding and tokens at
        ``layer_decay ** (depth + 1)``, the final norm at the whole rate.
        """
        decay = self.config.layer_decay
        lowest = decay ** (self.depth + 1)
        return [
            ParamRule(pattern="cls_token", lr=lowest, decay=0.0),
            ParamRule(pattern="mask_token", lr=lowest, decay=0.0),
            ParamRule(pattern="patch_embed.*", lr=lowest * self.config.patch_embed_lr),
            *(ParamRule(pattern=f"block.{i}.*", lr=decay ** (self.depth - i)) for i in range(self.depth)),
        ]

    def resamplers(self) -> Mapping[str, Resampler]:
        """The patch embedding; rotary positions fit any grid."""
        return {"patch_embed.proj.weight": resample_patch_embedding}

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """Tokens of all crop sets in one packed pass; see `vtp_core.encoder.Encoder.forward`.

        Raises:
            ValueError: An image side that is no multiple of the patch, a mask of another grid, or a tapped
                block that doesn't exist.
        """
        packed, taps, layout = self._run(images, masks, layers, drop_path)
        sizes = [crops.rows * crops.tokens for crops in layout]
        final = self.norm(packed).split(sizes)
        tapped = {index: tap.split(sizes) for index, tap in taps.items()}
        prefix = int(self.has_cls)
        result = []
        for at, image in enumerate(images):
            shape = (*image.shape[:2], layout[at].tokens, self.width)
            tokens = final[at].view(shape)
            # Copies, because a sharded module must not return views of one tensor.
            result.append(
                Tokens(
                    patches=tokens[:, :, prefix:].clone(),
                    grid=self._grid(image),
                    cls=tokens[:, :, 0].clone() if prefix else None,
                    layers={
                        index: tap[at].view(shape)[:, :, prefix:].clone() for index, tap in tapped.items()
                    },
                )
            )
        return result

    def intermediate(
        self, images: Tensor, layers: tuple[int, ...], *, normed: bool = False
    ) -> dict[int, Tensor]:
        """Output of single blocks with the class token; see `vtp_core.encoder.Encoder.intermediate`."""
        _, taps, layout = self._run([images[:, None]], [None], layers, 0.0)
        shape = (layout[0].rows, layout[0].tokens, self.width)
        return {index: (self.norm(tap) if normed else tap).view(shape) for index, tap in taps.items()}

    def _run(
        self, images: list[Tensor], masks: list[Tensor | None], layers: tuple[int, ...], drop_path: float
    ) -> tuple[Tensor, dict[int, Tensor], Layout]:
        if missing := [layer for layer in layers if not 0 <= layer < self.depth]:
            raise ValueError(f"vit: can't tap block {missing[0]}: the blocks are 0 to {self.depth - 1}")
        embedded = [self._embed(image, mask) for image, mask in zip(images, masks, strict=True)]
        layout = Layout(
            CropRows(tokens.shape[0], tokens.shape[1], self.rope_embed(self._grid(image), tokens))
            for tokens, image in zip(embedded, images, strict=True)
        )
        packed = torch.cat([tokens.flatten(0, 1) for tokens in embedded])
        taps = {}
        for index, block in enumerate(self.block):
            packed = block(packed, layout, drop_path)
            if index in layers:
                taps[index] = packed
        return packed, taps, layout

    def _grid(self, image: Tensor) -> tuple[int, int]:
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"vit: image of {height} x {width} pixels is no multiple of the patch {self.patch}"
            )
        return height // self.patch, width // self.patch

    def _embed(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, 3, H, W) and (B, C, N) to the rows' tokens (B * C, prefix + N, D)."""
        height, width = self._grid(image)
        if mask is not None and mask.shape != (*image.shape[:2], height * width):
            raise ValueError(
                f"vit: mask {tuple(mask.shape)} for {height} x {width} patches of {tuple(image.shape)}"
            )
        patches = self.patch_embed(image.flatten(0, 1)).to(self.mask_token.dtype)
        if mask is not None:
            patches = torch.where(mask.flatten(0, 1)[:, :, None], self.mask_token, patches)
        # The mask token takes part in every forward, so it has a gradient, zero if nothing is masked.
        touch = 0 * self.mask_token
        if self.cls_token is None:
            return patches + touch
        return torch.cat(((self.cls_token + touch).expand(patches.shape[0], -1, -1), patches), dim=1)
