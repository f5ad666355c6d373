"""Makes the samples that `vtp generate` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.run.progress import show_pass
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.generated import sampling_of
from vtp_plugins.generate.classes import read_classes, titles
from vtp_plugins.generate.grid import draw_grid, field


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        number: Samples.
        seed: Their seed.
        rows: Samples at a time.
        settings: Changes of the generator's settings.
        classes: Names or numbers of classes with commas between, or None.
    """

    number: int
    seed: int
    rows: int
    settings: Mapping[str, Any]
    classes: str | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """The samples.

    Attributes:
        images: In order of their numbers.
        classes: Their classes, or None where the generator drew them.
        titles: Names of their classes; empty ones where these are unknown.
        settings: The generator's settings in effect; empty if it states none.
    """

    images: list[Image.Image]
    classes: list[int] | None
    titles: list[str]
    settings: dict[str, Any]

    def picture(self) -> Image.Image:
        """One picture of all: a row a class, or a field."""
        if self.classes is None:
            return draw_grid(field(self.images))
        rows: dict[str, list[Image.Image]] = {}
        for title, image in zip(self.titles, self.images, strict=True):
            rows.setdefault(title, []).append(image)
        return draw_grid(list(rows.items()))


@torch.no_grad()
def make_samples(model: Tokenizer, decoding: Tokenizer, request: Request) -> Made:
    """Samples 0 .. number - 1.

    Args:
        model: Has the generator.
        decoding: Decodes its latents.
        request: What was asked for.

    Raises:
        NumericError: A latent or an image is not finite.
        UsageError: A class or a setting that the generator does not have, or `decoding` has no decoder.
    """
    if "decode" not in decoding.capabilities:
        raise UsageError("generate: the tokenizer has no decoder; name one with --decoder")
    assert model.config is not None
    head = model.exports["generate"]
    names = model.config.classes
    chosen = None
    if request.classes is not None:
        asked = read_classes(request.classes, names, head.classes if isinstance(head, Generator) else 0)
        chosen = [asked[index % len(asked)] for index in range(request.number)]
    settings = sampling_of(model, request.settings) or {}
    images: list[Image.Image] = []
    with show_pass("generating", request.number) as advance:
        for indices in torch.arange(request.number, device=model.device).split(request.rows):
            own = None if chosen is None else torch.tensor(chosen, device=model.device)[indices]
            latent = model.generate(indices, request.seed, classes=own, settings=request.settings or None)
            require_finite("generate", {"the generated latent is": latent}, head)
            images += decoding.postprocess(decoding.decode(latent.to(decoding.dtype)).sample)
            advance(len(indices))
    return Made(
        images=images,
        classes=chosen,
        titles=[""] * len(images) if chosen is None else titles(chosen, names),
        settings=settings,
    )
