"""Checks that any encoder has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.testing.checks.parts import (
    bfloat16,
    check_gradients,
    check_structure,
    expect,
    expect_close,
    unchanged,
)


def check_encoder(
    target: Callable[[Any], Encoder], config: Any, *, size: int | None = None, seed: int = 0
) -> None:
    """Runs an encoder on noise, on a CPU.

    Shapes and taps are as declared; `forward` changes no state, depends on its inputs and torch's global
    generator alone, treats rows, crops and crop sets apart and takes images that are not square, unless it
    names an `only_size`, and then refuses others; every
    trainable parameter gets a gradient; bfloat16 stays near float32; masks are used or refused; what
    `intermediate` gives of the first and the last block is what `forward` gives, or it is refused.

    Args:
        target: The encoder's class.
        config: Its table.
        size: Side in pixels, a multiple of the patch; default: four patches.
        seed: Of weights and images.

    Raises:
        ConformanceError: A rule is broken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = target(config)
        check_structure(encoder, lambda: target(config))
        side = size or 4 * encoder.patch
        shapes = [encoder.only_size or (side, side), encoder.only_size or (side, side - encoder.patch)]
        images = [torch.randn(3, crops, 3, *shape) for crops, shape in zip((1, 2), shapes, strict=True)]
        taps = encoder.depth if encoder.taps is None else encoder.taps
        layers = tuple(sorted({0, taps - 1})) if taps else ()
        _check_shapes(encoder, images, layers)
        if encoder.only_size is not None:
            _check_refusal(encoder, encoder.only_size)
        _check_apart(encoder, images, layers)
        _check_masks(encoder, images[0])
        _check_intermediate(encoder, images[0])
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            found = encoder.train()(images, [None, None], layers=layers)
            values = [value for tokens in found for value in _tensors(tokens).values()]
            torch.stack([value.square().mean() for value in values]).sum().backward()
            check_gradients(encoder, allowed="mask")


def _check_shapes(encoder: Encoder, images: list[Tensor], layers: tuple[int, ...]) -> None:
    for mode in (True, False):
        with unchanged(encoder, "forward"), torch.no_grad():
            found = encoder.train(mode)(images, [None] * len(images), layers=layers)
        expect(len(found) == len(images), f"{len(found)} Tokens for {len(images)} crop sets")
        for tokens, image in zip(found, images, strict=True):
            rows, crops, _, height, width = image.shape
            grid = encoder.grid(height, width)
            shape = (rows, crops, grid[0] * grid[1], encoder.width)
            expect(
                tokens.grid == grid, f"grid {tokens.grid} for images of {height} x {width}: expected {grid}"
            )
            expect(tokens.patches.shape == shape, f"patches {tuple(tokens.patches.shape)}: expected {shape}")
            expect((tokens.cls is not None) == encoder.has_cls, "has_cls and Tokens.cls differ")
            if tokens.cls is not None:
                cls = (rows, crops, encoder.width)
                expect(tokens.cls.shape == cls, f"cls {tuple(tokens.cls.shape)}: expected {cls}")
            expect(
                sorted(tokens.layers) == sorted({*layers}), f"taps {sorted(tokens.layers)}: asked {layers}"
            )
            for tap in tokens.layers.values():
                expect(
                    tap.shape[:3] == shape[:3], f"tap {tuple(tap.shape)}: expected {shape[:3]} and a width"
                )
            for name, value in _tensors(tokens).items():
                expect(bool(value.isfinite().all()), f"{name} is not finite")


def _check_refusal(encoder: Encoder, size: tuple[int, int]) -> None:
    """Images of other sizes are a `UsageError`, of which `Tokenizer` and evaluators make one line."""
    for height, width in ((size[0] + encoder.patch, size[1]), (size[0], size[1] + encoder.patch)):
        try:
            encoder.eval()([torch.randn(1, 1, 3, height, width)], [None])
        except UsageError:
            continue
        expect(False, f"only_size is {size}, and images of {height} x {width} are no UsageError")


def _check_apart(encoder: Encoder, images: list[Tensor], layers: tuple[int, ...]) -> None:
    """Rows, crops and sets do not depend on each other; a seed of torch fixes the rest."""

    def run(which: list[Tensor]) -> list[Mapping[str, Tensor]]:
        return [_tensors(tokens) for tokens in encoder(which, [None] * len(which), layers=layers)]

    with torch.no_grad():
        encoder.train()
        torch.manual_seed(1)
        first = run(images)
        torch.manual_seed(1)
        for name, value in run(images)[0].items():
            expect(torch.equal(value, first[0][name]), f"{name} differs under one seed of torch's generator")
        encoder.eval()
        together = run(images)
        for position, image in enumerate(images):
            (alone,) = run([image])
            parts = [run([row])[0] for row in image.split(1)]
            single = [run([image[:, crop : crop + 1]])[0] for crop in range(image.shape[1])]
            for name, value in together[position].items():
                expect_close(alone[name], value, f"{name} of a crop set depends on other sets")
                rows = torch.cat([part[name] for part in parts])
                expect_close(
                    rows, value, f"{name} of a row depends on other rows (BatchNorm in training mode?)"
                )
                crops = torch.cat([part[name] for part in single], 1)
                expect_close(crops, value, f"{name} of a crop depends on the row's other crops")
        with bfloat16():
            rounded = run(images[:1])[0]
        for name, value in rounded.items():
            expect_close(value, together[0][name], f"{name} in bfloat16 is far from float32", 0.2)


def _check_masks(encoder: Encoder, image: Tensor) -> None:
    patches = (image.shape[-1] // encoder.patch) * (image.shape[-2] // encoder.patch)
    mask = torch.zeros(*image.shape[:2], patches, dtype=torch.bool)
    mask[0, 0, 0] = True
    with torch.no_grad():
        try:
            (masked,) = encoder.eval()([image], [mask])
        except UsageError:
            return  # an encoder without mask token says so
        (plain,) = encoder([image], [None])
        expect_close(
            masked.patches[1:], plain.patches[1:], "a row without masked patch differs from an unmasked one"
        )
        other = image.clone()
        other[0, 0, :, : encoder.patch, : encoder.patch] += 1
        (changed,) = encoder([other], [mask])
        expect_close(changed.patches, masked.patches, "pixels below the mask have an effect")


def _check_intermediate(encoder: Encoder, image: Tensor) -> None:
    last = encoder.depth - 1
    with torch.no_grad():
        try:
            found = encoder.eval().intermediate(image[:, 0], (0, last), normed=True)
        except UsageError:
            expect(not encoder.has_intermediate, "has_intermediate is True, and `intermediate` is refused")
            return
        expect(encoder.has_intermediate, "`intermediate` works, and has_intermediate is False")
        plain = encoder.intermediate(image[:, 0], (0,))
        (tokens,) = encoder([image], [None], layers=(0,))
    expect(sorted(found) == sorted({0, last}), f"`intermediate` gives blocks {sorted(found)}: 0 and {last}")
    own = tokens.patches if tokens.cls is None else torch.cat([tokens.cls[:, :, None], tokens.patches], 2)
    expect_close(found[last], own[:, 0], "the last block's tokens of `intermediate` are not those of forward")
    patches = plain[0][:, int(encoder.has_cls) :]
    expect_close(patches, tokens.layers[0][:, 0], "the first block's tokens of `intermediate` are no tap")


def _tensors(tokens: Tokens) -> dict[str, Tensor]:
    found = {"patches": tokens.patches} | {f"tap {layer}": tap for layer, tap in tokens.layers.items()}
    return found if tokens.cls is None else {**found, "cls": tokens.cls}
