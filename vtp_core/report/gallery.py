"""The pictures of the report: reconstructions beside references, text queries, neighbours, interpolations."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vtp_core.atomic import replacing_folder
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.pixels import to_uint8
from vtp_core.report.generated import write_samples
from vtp_core.report.references import HALF_PRECISION, JpegReference, Reference
from vtp_core.report.run_data import GALLERY, GALLERY_VERSION
from vtp_core.report.similar import Query, neighbours, text_queries
from vtp_core.report.survey import Survey, psnr, read, survey
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides

ERROR_GAIN = 4
FRAMES = 7
"""Images of an interpolation, its ends included."""


@torch.no_grad()
def write_gallery(
    model: Tokenizer,
    data: EvaluationSet,
    folder: Path,
    *,
    references: Sequence[Reference] = (),
    count: int = 14,
    extremes: int = 4,
    rows: int = 64,
    seconds: float = math.inf,
    made_from: str = "",
    trained_on: bool = False,
    show: Show = silent,
) -> Path:
    """Writes PNG files and ``samples.json`` into `folder`, which is replaced.

    Of the images that were measured: some spread evenly, the worst, the median, with the references' outputs;
    results of text queries; neighbours; interpolations. An image is in one group only. The colours of the
    latents are principal components over all images, so that they can be compared between images.

    Args:
        model: A tokenizer in eval mode, with a `config` and a decoder.
        data: The images, of which bad ones are left out if `skip_bad` is set.
        folder: Usually ``samples`` of the run folder.
        references: Shown beside JPEG files of the latent's size.
        count: Images spread evenly over the set.
        extremes: Worst ones, and as many around the median.
        rows: Images at a time.
        seconds: For measuring; the file says on how many images that was.
        made_from: Hash of the weights, stored in ``samples.json``.
        trained_on: Whether they are training images, for lack of others; the page says so.
        show: Shows the progress.

    Returns:
        ``samples.json``.
    """
    if model.config is None or "decode" not in model.capabilities:
        raise UsageError("gallery: the tokenizer needs a config and a decoder")
    size = model.config.image_size
    numbers = math.prod(model.encoder.grid(*sides(size)))
    bits = sum(math.ceil(math.log2(max(k, 2))) for k in model.bottleneck.codebook_sizes)
    stored = math.ceil(bits * numbers / 8) if bits else HALF_PRECISION * model.bottleneck.channels * numbers
    references = [*references, JpegReference(stored)]
    pool = survey(model, data, references, rows=rows, seconds=seconds, show=show)
    chosen = _choose(pool.psnr, count, extremes)
    avoid = {row for _, row in chosen}
    queries = text_queries(model, pool, data.source.classes, avoid=avoid)
    avoid |= {query.row for query in queries if query.row is not None}
    near = neighbours(pool, avoid=avoid)
    pairs = _pairs(len(pool.keys))
    with replacing_folder(folder) as new:
        pictures = _Pictures(model, data, new, pool)
        pictures.write(queries + near, [row for _, row in chosen], references, rows)
        between = [pictures.interpolate(number, pair) for number, pair in enumerate(pairs)]
        mean, std = pool.moments.channels()
        record = {
            "version": GALLERY_VERSION,
            "made_from": made_from,
            "held_out": ("training images, none are held out: " if trained_on else "")
            + str(data.facts(len(pool.keys))),
            "trained_on": trained_on,
            "image_size": size,
            "images": [
                {"group": group, "psnr": pool.psnr[row], **pictures.entry(row), **pictures.outputs(row)}
                for group, row in chosen
            ],
            "psnr": {
                "values": [round(score, 4) for score in sorted(pool.psnr)],
                "median": float(np.median(pool.psnr)),
                "mean": float(np.mean(pool.psnr)),
            },
            "bytes": pool.bytes,
            "references": [
                {**column, "note": note}
                for column in pool.columns()
                for note in [next(r.note for r in references if r.title == column["title"])]
            ],
            "queries": [pictures.answer(query) for query in queries],
            "neighbours": [pictures.answer(query) for query in near],
            "interpolations": between,
            "latent": {
                "mean": mean,
                "std": std,
                "explained": pool.moments.basis().explained,
                "shape": pool.shape,
                "codes": list(model.bottleneck.codebook_sizes),
            },
            "parameters": _parameters(model),
            "generated": write_samples(model, new),
        }
        (new / GALLERY).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder / GALLERY


class _Pictures:
    """Writes the PNG files of a gallery."""

    def __init__(self, model: Tokenizer, data: EvaluationSet, folder: Path, pool: Survey) -> None:
        self.model = model
        self.data = data
        self.folder = folder
        self.pool = pool
        self.row_of = {position: row for row, position in enumerate(pool.positions)}
        self.shown: dict[int, dict[str, object]] = {}
        assert model.config is not None
        self.size = model.config.image_size

    def write(
        self, queries: Sequence[Query], whole: Sequence[int], references: Sequence[Reference], rows: int
    ) -> None:
        """Inputs of all results, and everything of the rows `whole`."""
        results = {found.row for query in queries for found in query.found}
        results |= {query.row for query in queries if query.kind == "image" and query.row is not None}
        basis = self.pool.moments.basis()
        for chosen, plain in ((list(whole), False), (sorted(results - set(whole)), True)):
            for seen_rows, seen in self._observe(chosen, rows):
                for index, row in enumerate(seen_rows):
                    self._save(row, "input", seen.image[index])
                if plain:
                    continue
                error = (seen.image.int() - seen.reconstruction.int()).abs().mul(ERROR_GAIN).clamp_max(255)
                colors = basis.colors(seen.encoded.latent)
                kept = [reference.outputs(seen) for reference in references]
                for index, row in enumerate(seen_rows):
                    columns = [
                        self._column(row, number, reference.title, seen.image[index], outputs[index])
                        for number, (reference, outputs) in enumerate(zip(references, kept, strict=True))
                    ]
                    self.shown[row] = {
                        "output": self._save(row, "output", seen.reconstruction[index]),
                        "error": self._save(row, "error", error[index]),
                        "latent": self._save(row, "latent", colors[index]),
                        "references": [column for column in columns if column is not None],
                    }

    def interpolate(self, number: int, pair: tuple[int, int]) -> dict[str, object]:
        """Decodes a straight line between two latents."""
        ends = torch.cat([seen.encoded.latent for row in pair for _, seen in self._observe([row], 1)])
        places = torch.linspace(0, 1, FRAMES, device=ends.device, dtype=ends.dtype).view(-1, 1, 1, 1)
        images = to_uint8(self.model.decode(ends[:1] + places * (ends[1:] - ends[:1])).sample, "imagenet")
        frames = []
        for index, image in enumerate(images):
            frames.append(f"between-{number}-{index}.png")
            Image.fromarray(_image(image)).save(self.folder / frames[-1], optimize=True)
        names = {"from": self.pool.keys[pair[0]], "to": self.pool.keys[pair[1]]}
        return {**names, "frames": frames}

    def entry(self, row: int) -> dict[str, object]:
        """Key, caption and file of a row's image."""
        pool = self.pool
        return {"key": pool.keys[row], "caption": pool.captions[row], "input": self._name(row, "input")}

    def outputs(self, row: int) -> dict[str, object]:
        """Files of what was made of a row's image."""
        return self.shown[row]

    def answer(self, query: Query) -> dict[str, object]:
        """A query and its results."""
        asked = self.entry(query.row) if query.kind == "image" and query.row is not None else {}
        found = [
            {**self.entry(item.row), "similarity": item.similarity, "match": item.match}
            for item in query.found
        ]
        return {"text": query.text, "kind": query.kind, "rank": query.rank, "asked": asked, "found": found}

    def _observe(self, rows: Sequence[int], size: int) -> Any:
        positions = [self.pool.positions[row] for row in rows]
        for found, batch in read(self.data, positions, self.size, size, frozenset({"image"})):
            seen = Observation(self.model, batch.to(self.model.device), "held_out")
            yield [self.row_of[position] for position in found], seen

    def _column(
        self, row: int, number: int, title: str, image: Tensor, kept: tuple[Tensor, int] | None
    ) -> dict[str, object] | None:
        if kept is None:
            return None
        score = psnr(image[None].cpu(), kept[0][None].cpu())[0]
        file = self._save(row, f"reference{number}", kept[0])
        return {"title": title, "psnr": score, "bytes": kept[1], "file": file}

    def _name(self, row: int, kind: str) -> str:
        return f"{self.pool.positions[row]:05d}-{kind}.png"

    def _save(self, row: int, kind: str, pixels: Tensor | NDArray[np.uint8]) -> str:
        name = self._name(row, kind)
        picture = Image.fromarray(_image(pixels) if isinstance(pixels, Tensor) else pixels)
        picture.save(self.folder / name, optimize=True)
        return name


def _choose(scores: list[float], count: int, extremes: int) -> list[tuple[str, int]]:
    """Groups and rows; a row is chosen once."""
    total = len(scores)
    count = min(count, total)
    spread = [i * total // count for i in range(count)]
    order = sorted(range(total), key=lambda i: scores[i])
    rest = [i for i in order if i not in spread]
    chosen = [("spread", i) for i in spread]
    if len(rest) < 3 * extremes:
        return chosen
    place = {i: abs(rank - (total - 1) / 2) for rank, i in enumerate(order)}
    middle = sorted(sorted(rest[extremes:], key=place.__getitem__)[:extremes], key=order.index)
    return chosen + [("worst", i) for i in rest[:extremes]] + [("median", i) for i in middle]


def _pairs(total: int) -> list[tuple[int, int]]:
    """Rows between which is interpolated."""
    places = [(total * part) // 7 for part in (1, 4, 3, 6)]
    return [(places[0], places[1]), (places[2], places[3])] if total >= 7 else []


def _parameters(model: Tokenizer) -> dict[str, int]:
    """Numbers of parameters: of encoder, bottleneck and decoder, and of everything exported as `heads`."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts["heads" if part == "exports" else part] += parameter.numel()
    return dict(counts)


def _image(pixels: Tensor) -> NDArray[np.uint8]:
    return pixels.permute(1, 2, 0).to(torch.uint8).cpu().numpy()
