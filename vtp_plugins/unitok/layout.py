"""The published names of the tensors of a UniTok, as views into the live modules."""

from __future__ import annotations

import re

from torch import Tensor

from vtp_core.tokenizer import Tokenizer

MARKS = frozenset(
    {"quant_proj.attn.zero_k_bias", "quantizer.codebooks.0.codebook.weight", "decoder.up_conv4.conv2.weight"}
)
"""Names by which a file is known."""
IGNORED = ("text_encoder.", "projection.", "fc_norm.", "logit_scale")
"""How the names begin of what images need not: the text tower and its head."""

_STATISTIC = re.compile(r"quantizer\.codebooks\.\d+\.vocab_usage")
_CONVOLUTIONS = ("stem.", "stages.", "pool.")


def of_images(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the statistics of training."""
    return {name: tensor for name, tensor in state.items() if not _STATISTIC.fullmatch(name)}


def published_tensors(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Published name -> tensor in its published shape; writing into one changes the tokenizer."""
    assert tokenizer.decoder is not None
    found: dict[str, Tensor] = {}
    for name, tensor in tokenizer.encoder.state_dict().items():
        place = "patch_embed.backbone." if name.startswith(_CONVOLUTIONS) else ""
        found[f"encoder.{place}{_blocks(name)}"] = tensor
    for name, tensor in tokenizer.bottleneck.state_dict().items():
        if name.startswith("quant_proj."):
            found[name] = tensor
        elif match := re.fullmatch(r"quantizer\.parts\.(\d+)\.table", name):
            found[f"quantizer.codebooks.{match[1]}.codebook.weight"] = tensor
    for name, tensor in tokenizer.decoder.state_dict().items():
        found[name if name.startswith("post_quant_proj.") else f"decoder.{_blocks(name)}"] = tensor
    return found


def _blocks(name: str) -> str:
    return f"blocks.{name.removeprefix('block.')}" if name.startswith("block.") else name
