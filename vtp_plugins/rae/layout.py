"""The published names of the networks' tensors, as views into the live modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from vtp_plugins.rae.config import Family
from vtp_plugins.rae.decoder import RaeDecoder
from vtp_plugins.rae.encoder import RaeEncoder

Names = Mapping[str, str]

_VIT: Names = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "proj": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
_DINO: Names = {
    **_VIT,
    "norm1": "norm1",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
}
_SIGLIP: Names = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "proj": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
BLOCKS: Mapping[Family, tuple[str, Names]] = {
    "dinov2": ("encoder.layer.", _DINO),
    "mae": ("vit.encoder.layer.", _VIT),
    "siglip2": ("vision_model.encoder.layers.", _SIGLIP),
}
"""Family -> how the names of its blocks begin, and the name of each layer in a block."""
OUTSIDE: Mapping[Family, Names] = {
    "dinov2": {
        "patch_embed": "embeddings.patch_embeddings.projection",
        "cls_token": "embeddings.cls_token",
        "registers": "embeddings.register_tokens",
        "positions": "embeddings.position_embeddings",
    },
    "mae": {
        "patch_embed": "vit.embeddings.patch_embeddings.projection",
        "cls_token": "vit.embeddings.cls_token",
        "positions": "vit.embeddings.position_embeddings",
    },
    "siglip2": {
        "patch_embed": "vision_model.embeddings.patch_embedding",
        "positions": "vision_model.embeddings.position_embedding.weight",
    },
}
"""Family -> published names outside the blocks."""
IGNORED: Mapping[Family, Sequence[str]] = {
    "dinov2": ("embeddings.mask_token", "layernorm."),
    "mae": ("vit.layernorm.", "decoder."),
    "siglip2": (
        "text_model.",
        "logit_",
        "vision_model.head.",
        "vision_model.post_layernorm.",
    ),
}
"""How the names begin of what RAE does not use: the final norm's scale and offset, heads, text towers."""


def encoder_tensors(encoder: RaeEncoder) -> dict[str, Tensor]:
    """Published name -> tensor in its published shape; writing into one changes the encoder."""
    family = encoder.config.family
    names = OUTSIDE[family]
    found = {
        f"{names['patch_embed']}.{key}": tensor for key, tensor in encoder.patch_embed.state_dict().items()
    }
    positions = encoder.positions.detach()
    found[names["positions"]] = positions[0] if family == "siglip2" else positions
    for part, tensor in (("cls_token", encoder.cls_token), ("registers", encoder.registers)):
        if tensor is not None:
            found[names[part]] = tensor.detach()
    prefix, layers = BLOCKS[family]
    return found | dict(_blocks(encoder.block, prefix, layers))


def decoder_tensors(decoder: RaeDecoder) -> dict[str, Tensor]:
    """As `encoder_tensors`, of a decoder."""
    found = {
        "decoder_pos_embed": decoder.positions.detach(),
        "trainable_cls_token": decoder.cls_token.detach(),
    }
    for part, name in (("embed", "decoder_embed"), ("norm", "decoder_norm"), ("pred", "decoder_pred")):
        state = decoder.get_submodule(part).state_dict()
        found |= {f"{name}.{key}": tensor for key, tensor in state.items()}
    return found | dict(_blocks(decoder.block, "decoder_layers.", _VIT))


def _blocks(blocks: nn.ModuleList, prefix: str, names: Names) -> Iterator[tuple[str, Tensor]]:
    for index, block in enumerate(blocks):
        for name, tensor in block.state_dict().items():
            layer, _, kind = name.partition(".")
            if layer == "qkv":
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{prefix}{index}.{names[part]}.{kind}", piece
            else:
                yield f"{prefix}{index}.{names[layer]}{'.' if kind else ''}{kind}", tensor
