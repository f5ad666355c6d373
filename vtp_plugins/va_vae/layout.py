"""The published names of the tensors of `cnn` and `kl`, as views into the live modules."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.kl.bottleneck import KlBottleneck

IGNORED = ("loss.", "foundation_model.", "linear_proj.")
"""How the names begin of what only training needs."""
MARKS = frozenset({"encoder.mid.block_1.conv1.weight", "quant_conv.weight", "post_quant_conv.weight"})
"""Names by which a checkpoint is known; other projects' auto-encoders share all but the first."""


def published_tensors(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Published name -> tensor in its published shape; writing into one changes the tokenizer."""
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    assert isinstance(encoder, CnnEncoder)
    assert isinstance(bottleneck, KlBottleneck)
    assert isinstance(decoder, CnnDecoder)
    found = dict(_encoder(encoder)) | dict(_decoder(decoder))
    moments = bottleneck.moments
    # Linear layers of tokens are the 1 x 1 convolutions of maps.
    found["quant_conv.weight"] = moments.weight.detach()[:, :, None, None]
    found["quant_conv.bias"] = moments.bias.detach()
    return found


def _encoder(encoder: CnnEncoder) -> Iterator[tuple[str, Tensor]]:
    levels, each = len(encoder.config.multipliers), encoder.config.residual_blocks
    places = [f"down.{level}.{{}}.{place}" for level in range(levels) for place in range(each)]
    for name, tensor in encoder.state_dict().items():
        own, _, rest = name.partition(".")
        number, _, layer = rest.partition(".")
        if own == "block":
            yield f"encoder.{_block(int(number), layer, [*places, *MIDDLE])}", tensor
        elif own == "down":
            yield f"encoder.down.{number}.downsample.{layer}", tensor
        else:
            yield f"encoder.{_outer(name)}", tensor


def _decoder(decoder: CnnDecoder) -> Iterator[tuple[str, Tensor]]:
    levels, each = len(decoder.config.multipliers), decoder.config.residual_blocks + 1
    # The coarsest comes first; the published count starts at the finest.
    places = [f"up.{level}.{{}}.{place}" for level in reversed(range(levels)) for place in range(each)]
    for name, tensor in decoder.state_dict().items():
        own, _, rest = name.partition(".")
        number, _, layer = rest.partition(".")
        if own == "block":
            yield f"decoder.{_block(int(number), layer, [*MIDDLE, *places])}", tensor
        elif own == "up":
            yield f"decoder.up.{levels - 1 - int(number)}.upsample.{layer}", tensor
        elif own == "quant":
            yield f"post_quant_conv.{rest}", tensor
        else:
            yield f"decoder.{_outer(name)}", tensor


MIDDLE = ("mid.{}_1", "mid.{}_2")
"""The two blocks of the coarsest map."""


def _block(number: int, layer: str, places: list[str]) -> str:
    kind, _, rest = layer.partition(".")
    attention = kind == "attention"
    rest = rest.replace("proj.", "proj_out.") if attention else rest.replace("shortcut.", "nin_shortcut.")
    return f"{places[number].format('attn' if attention else 'block')}.{rest}"


def _outer(name: str) -> str:
    return name.replace("norm.", "norm_out.") if name.startswith("norm.") else name
