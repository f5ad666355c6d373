"""The published names of the tensors of a TiTok, as views into the live modules."""

from __future__ import annotations

from torch import Tensor

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.titok.decoder import TiTokDecoder
from vtp_plugins.titok.encoder import TiTokEncoder
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.learned import LearnedQuantizer

MARKS = frozenset({"latent_tokens", "encoder.latent_token_positional_embedding", "decoder.mask_token"})
"""Names by which a file of weights is known."""


def published_tensors(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Published name -> tensor in its published shape; writing into one changes the tokenizer."""
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    assert isinstance(encoder, TiTokEncoder)
    assert isinstance(decoder, TiTokDecoder)
    found = {
        name if name == "latent_tokens" else f"encoder.{_attention(name)}": tensor
        for name, tensor in encoder.state_dict().items()
    }
    if isinstance(bottleneck, KlBottleneck):
        linear = bottleneck.moments
    else:
        assert isinstance(bottleneck, VqBottleneck)
        assert bottleneck.project is not None
        assert isinstance(bottleneck.quantizer, LearnedQuantizer)
        linear = bottleneck.project
        found["quantize.embedding.weight"] = bottleneck.quantizer.table.detach()
    # A linear layer of tokens is the 1 x 1 convolution of their row.
    found["encoder.conv_out.weight"] = linear.weight.detach()[:, :, None, None]
    found["encoder.conv_out.bias"] = linear.bias.detach()
    for name, tensor in decoder.state_dict().items():
        if name == "pixel_quantize.weight":
            found["pixel_quantize.embedding.weight"] = tensor
        else:
            found[name if name.startswith("pixel_decoder.") else f"decoder.{_attention(name)}"] = tensor
    return found


def _attention(name: str) -> str:
    return name.replace(".in_proj.", ".in_proj_")
