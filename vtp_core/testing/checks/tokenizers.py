"""Checks that any tokenizer has to pass that a format reads: it is a module as any other."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor

from vtp_core.encoded import Encoded
from vtp_core.pixels import normalize
from vtp_core.testing.checks.parts import expect, expect_close, unchanged
from vtp_core.testing.errors import ConformanceError
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides

STEP = 1e-5
"""Length of the step of central differences, in float64."""


def check_tokenizer(tokenizer: Tokenizer, *, seed: int = 0, compiles: bool = True) -> None:
    """Runs a tokenizer with a `config` on drawn images of its size, on a CPU.

    Latents, codes and images have the declared shapes, `decode_indices` of codes decodes their latent, no
    call changes a weight, and rows are treated apart. A deepcopy and what comes back from pickle give the
    same numbers and share no memory with it. Gradients go through `encode` and `decode`; those of continuous
    latents, and of `decode`, are those of central differences in float64. `torch.compile` takes `encode` and
    `decode` as one graph each.

    Args:
        tokenizer: In eval mode.
        seed: Of the images.
        compiles: Whether to try `torch.compile` (by AOT autograd, without generating code).

    Raises:
        ConformanceError: A rule is broken.
    """
    assert tokenizer.config is not None
    height, width = sides(tokenizer.config.image_size)
    rng = torch.Generator().manual_seed(seed)
    pixels = normalize(torch.rand(2, 3, height, width, generator=rng)).to(tokenizer.dtype)
    expect(not any(module.training for module in tokenizer.modules()), "it is not in eval mode")
    with torch.no_grad(), unchanged(tokenizer, "encode or decode"):
        encoded = tokenizer.encode(pixels)
        _check_shapes(tokenizer, encoded, pixels)
        _check_rows(tokenizer, encoded, pixels)
        _check_copies(tokenizer, encoded, pixels)
        if compiles:
            _check_compiled(tokenizer, encoded, pixels)
    _check_gradients(copy.deepcopy(tokenizer).double(), pixels[:1].double(), rng)


def _check_shapes(tokenizer: Tokenizer, encoded: Encoded, pixels: Tensor) -> None:
    grid = tokenizer.encoder.grid(*pixels.shape[-2:])
    shape = (len(pixels), tokenizer.latent_channels, *grid)
    expect(encoded.latent.shape == shape, f"latent {tuple(encoded.latent.shape)}: expected {shape}")
    sizes = tokenizer.bottleneck.codebook_sizes
    expect((encoded.indices is not None) == bool(sizes), "codebook_sizes and Encoded.indices differ")
    if encoded.indices is not None:
        shape = (len(pixels), len(sizes), *grid)
        expect(encoded.indices.shape == shape, f"codes {tuple(encoded.indices.shape)}: expected {shape}")
    if tokenizer.decoder is None:
        return
    image = tokenizer.decode(encoded.latent).sample
    expect(image.shape == pixels.shape, f"image {tuple(image.shape)}: expected {tuple(pixels.shape)}")
    if encoded.indices is not None:
        again = tokenizer.decode_indices(encoded.indices).sample
        expect_close(again, image, "decode_indices of the codes is not decode of their latent")


def _check_rows(tokenizer: Tokenizer, encoded: Encoded, pixels: Tensor) -> None:
    rows = torch.cat([tokenizer.encode(row).latent for row in pixels.split(1)])
    expect_close(rows, encoded.latent, "the latent of an image depends on the others of its batch")


def _check_copies(tokenizer: Tokenizer, encoded: Encoded, pixels: Tensor) -> None:
    for what, make in (("deepcopy", copy.deepcopy), ("pickle", _pickled)):
        other = make(tokenizer)
        found = other.encode(pixels)
        expect(torch.equal(found.latent, encoded.latent), f"{what} gives other latents")
        if tokenizer.decoder is not None:
            images = [model.decode(encoded.latent).sample for model in (tokenizer, other)]
            expect(torch.equal(*images), f"{what} gives other images")
        expect(other.config == tokenizer.config, f"{what} has another config")
        own = {tensor.data_ptr() for tensor in tokenizer.state_dict().values() if tensor.numel()}
        shared = [name for name, tensor in other.state_dict().items() if tensor.data_ptr() in own]
        expect(not shared, f"{what} shares the memory of {shared[:1]}")


def _pickled(tokenizer: Tokenizer) -> Tokenizer:
    try:
        data = pickle.dumps(tokenizer)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConformanceError(f"it can't be pickled: {error}") from error
    again: Tokenizer = pickle.loads(data)  # our own bytes
    return again


def _check_compiled(tokenizer: Tokenizer, encoded: Encoded, pixels: Tensor) -> None:
    # torch counts the graphs of a function, those of tokenizers checked before included, and stops at eight.
    torch.compiler.reset()
    encode = torch.compile(tokenizer.encode, backend="aot_eager", fullgraph=True)
    expect_close(encode(pixels).latent, encoded.latent, "the latent of the compiled encode differs")
    if tokenizer.decoder is None:
        return
    decode = torch.compile(tokenizer.decode, backend="aot_eager", fullgraph=True)
    image = tokenizer.decode(encoded.latent).sample
    expect_close(decode(encoded.latent).sample, image, "the image of the compiled decode differs")


def _check_gradients(tokenizer: Tokenizer, pixels: Tensor, rng: torch.Generator) -> None:
    def encode(x: Tensor) -> Tensor:
        return tokenizer.encode(x).latent.sum()

    def decode(z: Tensor) -> Tensor:
        return tokenizer.decode(z).sample.sum()

    exact = not tokenizer.bottleneck.codebook_sizes  # codes step, and their gradient is a convention
    _check_gradient("encode", encode, pixels, rng, exact=exact)
    if tokenizer.decoder is not None:
        latent = tokenizer.encode(pixels).latent.detach()
        _check_gradient("decode", decode, latent, rng, exact=True)
        leaf = pixels.clone().requires_grad_()
        tokenizer.decode(tokenizer.encode(leaf).latent).sample.square().mean().backward()
        reached = leaf.grad is not None and bool(leaf.grad.isfinite().all()) and bool(leaf.grad.any())
        expect(reached, "no finite gradient reaches the pixels through encode and decode")


def _check_gradient(what: str, call: object, value: Tensor, rng: torch.Generator, *, exact: bool) -> None:
    assert callable(call)
    leaf = value.clone().requires_grad_()
    call(leaf).backward()
    gradient = leaf.grad
    reached = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
    expect(reached, f"no finite gradient goes through {what}")
    if not exact:
        return
    assert gradient is not None
    direction = torch.randn(value.shape, generator=rng, dtype=value.dtype)
    with torch.no_grad():
        step = STEP * direction
        slope = (call(value + step) - call(value - step)) / (2 * STEP)
    expected = (gradient * direction).sum()
    expect_close(expected, slope, f"the gradient of {what} is not that of central differences", 1e-3)
