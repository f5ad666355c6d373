"""What a tokenizer stores, computes and takes for an image."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vtp_core.errors import UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import Size, sides

HALF_PRECISION_BITS = 16
"""Bits of a number of a continuous latent, as caches of latents store it."""
IMAGES = 8
"""Images at a time whose speed is measured."""
CALLS = 3
"""Measured calls, after one that is not; the median counts."""


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(q, k, v))


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What torch's own table of FLOPs lacks."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Sizes and speeds of a tokenizer at the size of its config.

    Attributes:
        image_size: Side in pixels, or height and width.
        latent: Channels and grid, (d, h, w).
        codebooks: Codes of each codebook; empty for continuous latents.
        tokens: Latent positions an image.
        bits: Bits an image: of the codes, or of the latent's numbers in half precision.
        encoder_parameters: Those of encoder and bottleneck.
        decoder_parameters: 0 without a decoder.
        encode_flops: Of matrix products, convolutions and attention of one image; 2 a multiply-add.
        decode_flops: The same of the decoder; None without one.
        encode_rate: Images a second; None until they are measured.
        decode_rate: The same of the decoder; None without one too.
        measured: How the rates were measured, or empty.
    """

    image_size: Size
    latent: tuple[int, int, int]
    codebooks: tuple[int, ...]
    tokens: int
    bits: int
    encoder_parameters: int
    decoder_parameters: int
    encode_flops: int
    decode_flops: int | None
    encode_rate: float | None = None
    decode_rate: float | None = None
    measured: str = ""


@torch.no_grad()
def count_cost(model: Tokenizer) -> Cost:
    """Counts a tokenizer's sizes and FLOPs, without rates.

    Args:
        model: In eval mode, with a `config`; as it was loaded, since layers that plugins have prepared for
            inference are not counted.

    Raises:
        UsageError: It has no config.
    """
    if model.config is None:
        raise UsageError("leaderboard: the tokenizer has no config, so no image size; pass config=")
    pixels = _noise(model, 1)
    latent = model.encode(pixels).latent
    _, channels, *grid = latent.shape
    tokens = math.prod(grid)
    books = tuple(model.bottleneck.codebook_sizes)
    decodes = "decode" in model.capabilities
    return Cost(
        image_size=model.config.image_size,
        latent=(channels, grid[0], grid[1]),
        codebooks=books,
        tokens=tokens,
        bits=_bits(books, tokens, channels),
        encoder_parameters=_parameters(model.encoder, model.bottleneck),
        decoder_parameters=0 if model.decoder is None else _parameters(model.decoder),
        encode_flops=_flops(lambda: model.encode(pixels)),
        decode_flops=_flops(lambda: model.decode(latent)) if decodes else None,
    )


@torch.no_grad()
def with_rates(cost: Cost, model: Tokenizer) -> Cost:
    """The same with the rates of this machine, by wall-clock time on noise.

    Args:
        cost: Of this tokenizer.
        model: As it is used: prepared for inference or not.
    """
    pixels = _noise(model, IMAGES)
    latent = model.encode(pixels).latent
    decodes = "decode" in model.capabilities
    threads = f", {torch.get_num_threads()} threads" if model.device.type == "cpu" else ""
    return replace(
        cost,
        encode_rate=_rate(lambda: model.encode(pixels), model.device),
        decode_rate=_rate(lambda: model.decode(latent), model.device) if decodes else None,
        measured=f"{IMAGES} images at a time on {model.device.type}{threads}, {str(model.dtype)[6:]}",
    )


def _noise(model: Tokenizer, images: int) -> Tensor:
    assert model.config is not None
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images, 3, *sides(model.config.image_size), generator=generator)
    return noise.to(model.device, model.dtype)


def _bits(books: tuple[int, ...], tokens: int, channels: int) -> int:
    if books:
        return tokens * sum(math.ceil(math.log2(max(codes, 2))) for codes in books)
    return tokens * channels * HALF_PRECISION_BITS


def _parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        call()
    return int(counter.get_total_flops())


def _rate(call: Callable[[], object], device: torch.device) -> float:
    def seconds() -> float:
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    seconds()
    return IMAGES / median(seconds() for _ in range(CALLS))
