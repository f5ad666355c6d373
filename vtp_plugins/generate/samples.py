"""Makes the samples that `vtp generate` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from vtp_core.view import sides
from vtp_plugins.generate.classes import read_classes, titles
from vtp_plugins.generate.grid import Layout, by_class, field


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
class Plan:
    """What is known of the samples before the first one is made.

    Attributes:
        classes: Their classes, or None where the generator draws them.
        titles: Names of their classes; empty ones where these are unknown.
        settings: The generator's settings in effect; empty if it states none.
        size: Width and height of the images.
    """

    classes: list[int] | None
    titles: list[str]
    settings: dict[str, Any]
    size: tuple[int, int]

    def layout(self) -> Layout:
        """Of a picture of all: a row a class, or a field."""
        rows = field(len(self.titles)) if self.classes is None else by_class(self.classes, self.titles)
        return Layout.of(rows, *self.size)


def plan_samples(model: Tokenizer, decoding: Tokenizer, request: Request) -> Plan:
    """Classes, settings and size of samples 0 .. number - 1.

    Args:
        model: Has the generator.
        decoding: Decodes its latents.
        request: What was asked for.

    Raises:
        UsageError: A class or a setting that the generator does not have, or `decoding` has no decoder.
    """
    if "decode" not in decoding.capabilities:
        raise UsageError("generate: the tokenizer has no decoder; name one with --decoder")
    assert model.config is not None
    head = model.exports["generate"]
    names = model.config.classes
    settings = sampling_of(model, request.settings) or {}
    height, width = sides(model.config.image_size)
    if request.classes is None:
        return Plan(classes=None, titles=[""] * request.number, settings=settings, size=(width, height))
    asked = read_classes(request.classes, names, head.classes if isinstance(head, Generator) else 0)
    chosen = [asked[index % len(asked)] for index in range(request.number)]
    settings.pop("balance", None)  # of classes that the generator draws
    return Plan(classes=chosen, titles=titles(chosen, names), settings=settings, size=(width, height))


@torch.no_grad()
def make_samples(
    model: Tokenizer, decoding: Tokenizer, request: Request, classes: list[int] | None
) -> Iterator[Image.Image]:
    """Samples 0 .. number - 1 in turn, of these classes.

    Raises:
        NumericError: A latent or an image is not finite.
    """
    head = model.exports["generate"]
    with show_pass("generating", request.number) as advance:
        for indices in torch.arange(request.number, device=model.device).split(request.rows):
            own = None if classes is None else torch.tensor(classes, device=model.device)[indices]
            latent = model.generate(indices, request.seed, classes=own, settings=request.settings or None)
            require_finite("generate", {"the generated latent is": latent}, head)
            yield from decoding.postprocess(decoding.decode(latent.to(decoding.dtype)).sample)
            advance(len(indices))
