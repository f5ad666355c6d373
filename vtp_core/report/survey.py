"""One pass over held-out images: what the galleries of the report choose from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.data.source import BadSample, Sample
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.sets.dataset import EvaluationSet, Subset
from vtp_core.report.colors import Moments
from vtp_core.report.references import Reference, latent_bytes
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import Size

MOST_IMAGES = 1000
MOST_NUMBERS = 2**15
"""Numbers of an image's latent that are kept; larger ones are averaged over squares first."""


@dataclass
class Survey:
    """Measurements of images, in the set's order.

    Attributes:
        positions: Of the images in the set's `indices()`, ascending.
        keys: Keys of the samples.
        captions: Their captions, empty without.
        labels: Their classes, -1 without.
        psnr: Of the reconstructions, in dB; identical images count 100.
        references: Title -> of each image its PSNR and bytes, or None.
        latents: (n, d * h * w), at most `MOST_NUMBERS` wide, float32 on the CPU, centred, unit length.
        embeddings: (n, E) float32 on the CPU, or None.
        moments: Sums of the latents.
        shape: Latent of an image: channels, height, width.
        bytes: Of an image's latent.
    """

    positions: list[int]
    keys: list[str]
    captions: list[str]
    labels: list[int]
    psnr: list[float]
    references: Mapping[str, list[tuple[float, int] | None]]
    latents: Tensor
    embeddings: Tensor | None
    moments: Moments
    shape: tuple[int, ...] = ()
    bytes: int = 0

    def columns(self) -> list[dict[str, object]]:
        """References that could keep every image: mean PSNR and bytes over these images."""
        return [
            {"title": title, "psnr": fmean(kept[0] for kept in found), "bytes": fmean(k[1] for k in found)}
            for title, values in self.references.items()
            if len(found := [kept for kept in values if kept is not None]) == len(values)
        ]


@dataclass
class _Row:
    key: str
    caption: str
    label: int
    psnr: float
    references: dict[str, tuple[float, int] | None]
    latent: Tensor
    embedding: Tensor | None


def survey(
    model: Tokenizer,
    data: EvaluationSet,
    references: Sequence[Reference] = (),
    *,
    rows: int = 64,
    most: int = MOST_IMAGES,
    seconds: float = math.inf,
    show: Show = silent,
) -> Survey:
    """Measures images spread evenly over a set.

    Args:
        model: In eval mode, with a `config` and a decoder.
        data: Held-out images.
        references: Measured on the same images.
        rows: Images at a time.
        most: Largest number of images.
        seconds: No new batch is begun after this time; what was measured until then is spread too.
        show: Shows the progress.

    Raises:
        DataError: No image could be read.
    """
    assert model.config is not None
    total = len(data.indices())
    count = min(total, most)
    chosen = [i * total // count for i in range(count)] if count else []
    stride = max(1, math.ceil(count / rows))
    spread = [position for offset in range(stride) for position in chosen[offset::stride]]
    fields = frozenset({"image", "text", "label"}) & data.source.fields
    embeds = {"embed_image", "embed_text"} <= model.capabilities
    found: dict[int, _Row] = {}
    moments = Moments()
    shape: tuple[int, ...] = ()
    size = 0
    begin = time.monotonic()
    with show(f"reconstructions: {data.name}", count) as advance:
        for positions, batch in read(data, spread, model.config.image_size, rows, fields):
            seen = Observation(model, batch.to(model.device), "held_out")
            latent = seen.encoded.latent
            moments.add(latent)
            shape, size = tuple(latent.shape[1:]), latent_bytes(model, seen.encoded)
            kept = {reference.title: _scores(seen, reference) for reference in references}
            scores = psnr(seen.image, seen.reconstruction)
            small = compact(latent)
            words = seen.image_embedding.float().cpu() if embeds else None
            for row, position in enumerate(positions):
                found[position] = _Row(
                    key=batch.keys[row],
                    caption=batch.text[row] if batch.text is not None else "",
                    label=int(batch.label[row]) if batch.label is not None else -1,
                    psnr=scores[row],
                    references={title: values[row] for title, values in kept.items()},
                    latent=small[row],
                    embedding=words[row] if words is not None else None,
                )
            advance(len(batch))
            if time.monotonic() - begin > seconds:
                break
    data.facts(len(found))  # refuses an empty set
    ordered = sorted(found)
    items = [found[position] for position in ordered]
    latents = torch.stack([item.latent for item in items])
    latents -= latents.mean(0)
    embeddings = [item.embedding for item in items if item.embedding is not None]
    return Survey(
        positions=ordered,
        keys=[item.key for item in items],
        captions=[item.caption for item in items],
        labels=[item.label for item in items],
        psnr=[item.psnr for item in items],
        references={r.title: [item.references[r.title] for item in items] for r in references},
        latents=torch.nn.functional.normalize(latents, dim=1),
        embeddings=torch.stack(embeddings) if embeddings else None,
        moments=moments,
        shape=shape,
        bytes=size,
    )


class _Described(Subset):
    """A source whose captions and labels may be missing: they are then empty and -1."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        found: dict[str, Any] = {}
        for name, missing in (("text", ""), ("label", -1)):
            if name in fields:
                try:
                    found[name] = getattr(super().read(index, frozenset({name})), name)
                except BadSample:
                    found[name] = missing
        return replace(super().read(index, fields - found.keys()), **found)


def read(
    data: EvaluationSet, positions: Sequence[int], size: Size, rows: int, fields: frozenset[str]
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of the images at some positions, each with the positions that could be read.

    Raises:
        DataError: An image is bad, and the set does not leave bad ones out.
    """
    data = replace(data, source=_Described(data.source, range(len(data.source))))
    for start in range(0, len(positions), rows):
        wanted = list(positions[start : start + rows])
        batches = list(data.subset(wanted).batches(size, len(wanted), fields=fields))
        if batches and len(batches[0]) == len(wanted):
            yield wanted, batches[0]
            continue
        # Some were left out: one at a time tells which.
        for position in wanted:
            for batch in data.subset([position]).batches(size, 1, fields=fields):
                yield [position], batch


def compact(latent: Tensor) -> Tensor:
    """Latents (B, d, h, w) as (B, at most `MOST_NUMBERS`) float32 on the CPU, averaged if need be."""
    side = max(1, math.isqrt(MOST_NUMBERS // latent.shape[1]))
    size = (min(side, latent.shape[2]), min(side, latent.shape[3]))
    if size != tuple(latent.shape[2:]) and latent[0].numel() > MOST_NUMBERS:
        latent = torch.nn.functional.adaptive_avg_pool2d(latent, size)
    return latent.flatten(1)[:, :MOST_NUMBERS].float().cpu()


def psnr(image: Tensor, output: Tensor) -> list[float]:
    """Of each 8-bit image (B, 3, H, W), in dB; identical images count 100."""
    error = (image.double() - output.double()).square().mean((1, 2, 3)).cpu()
    scores: list[float] = (10 * (255.0**2 / error.clamp_min(1e-300)).log10()).clamp_max(100.0).tolist()
    return scores


def _scores(seen: Observation, reference: Reference) -> list[tuple[float, int] | None]:
    image = seen.image.cpu()
    return [
        kept and (psnr(image[row : row + 1], kept[0][None].cpu())[0], kept[1])
        for row, kept in enumerate(reference.outputs(seen))
    ]
