"""Reconstructions for the report, of held-out images if there are any: spread, the worst, the median."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vtp_core.atomic import replacing_folder
from vtp_core.data.source import Sample, Source
from vtp_core.errors import UsageError
from vtp_core.evaluation.dataset import EvaluationSet, Subset
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.progress import Show, silent
from vtp_core.report.run_data import GALLERY
from vtp_core.tokenizer import Tokenizer

ERROR_GAIN = 4


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of the gallery; files are beside ``samples.json``.

    Attributes:
        group: ``spread``, ``worst`` or ``median``.
        key: Key of the sample.
        caption: Its caption, or empty.
        psnr: Of its reconstruction, in dB; identical images count 100.
        input: PNG of the image.
        output: PNG of its reconstruction.
        error: PNG of the absolute difference times 4.
        latent: PNG of the first three principal components of its latent, one pixel a position.
    """

    group: str
    key: str
    caption: str
    psnr: float
    input: str
    output: str
    error: str
    latent: str


@torch.no_grad()
def write_gallery(
    model: Tokenizer,
    data: EvaluationSet,
    folder: Path,
    *,
    count: int = 12,
    extremes: int = 4,
    rows: int = 64,
    made_from: str = "",
    trained_on: bool = False,
    show: Show = silent,
) -> Path:
    """Writes PNG files and ``samples.json`` into `folder`, which is replaced.

    The colours of the latents are the principal components over the whole set, so that they can be compared
    between images.

    Args:
        model: A tokenizer in eval mode, with a `config` and a decoder.
        data: The images, of which bad ones are left out if `skip_bad` is set.
        folder: Usually ``samples`` of the run folder.
        count: Images spread evenly over the set.
        extremes: Worst ones, and as many around the median.
        rows: Images at a time.
        made_from: Hash of the weights, stored in ``samples.json``.
        trained_on: Whether they are training images, for lack of others; the page says so.
        show: Shows the progress.

    Returns:
        ``samples.json``.
    """
    if model.config is None or "decode" not in model.capabilities:
        raise UsageError("gallery: the tokenizer needs a config and a decoder")
    size = model.config.image_size
    scores: list[float] = []
    moments = _Moments()
    read = _ReadIndices(data.source)
    with show(f"reconstructions: {data.name}", len(data.indices())) as advance:
        for batch in replace(data, source=read).batches(size, rows):
            seen = Observation(model, batch.to(model.device), "held_out")
            scores += _psnr(seen.image, seen.reconstruction).tolist()
            moments.add(seen.encoded.latent)
            advance(len(batch))
    facts = data.facts(len(scores))
    whose = "training images, none are held out: " if trained_on else ""
    chosen = _choose(scores, count, extremes)
    basis = moments.basis()
    fields = frozenset({"image", "text"}) & data.source.fields
    shown: list[Shown] = []
    with replacing_folder(folder) as new:
        subset = Subset(data.source, [read.indices[index] for _, index in chosen])
        for batch in replace(data, source=subset, limit=None).batches(size, rows, fields=fields):
            seen = Observation(model, batch.to(model.device), "held_out")
            latent = _colors(seen.encoded.latent, basis)
            error = (seen.image.int() - seen.reconstruction.int()).abs().mul(ERROR_GAIN).clamp_max(255)
            for row, key in enumerate(batch.keys):
                group, index = chosen[len(shown)]
                files = {
                    "input": _image(seen.image[row]),
                    "output": _image(seen.reconstruction[row]),
                    "error": _image(error[row]),
                    "latent": latent[row],
                }
                names = {name: f"{len(shown):03d}-{name}.png" for name in files}
                for name, pixels in files.items():
                    Image.fromarray(pixels).save(new / names[name], optimize=True)
                caption = batch.text[row] if batch.text is not None else ""
                shown.append(Shown(group=group, key=key, caption=caption, psnr=scores[index], **names))
        mean, std = moments.channel_statistics()
        record = {
            "images": [asdict(item) for item in shown],
            "made_from": made_from,
            "held_out": f"{whose}{facts}",
            "trained_on": trained_on,
            "image_size": size,
            "psnr": {
                "values": [round(score, 4) for score in sorted(scores)],
                "median": float(np.median(scores)),
            },
            "latent": {"mean": mean, "std": std, "explained": basis.explained},
        }
        (new / GALLERY).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder / GALLERY


class _ReadIndices:
    """A source that notes which of its samples could be read, in order."""

    def __init__(self, source: Source) -> None:
        self.source, self.indices = source, list[int]()
        self.fields, self.classes = source.fields, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        sample = self.source.read(index, fields)
        self.indices.append(index)
        return sample


def _choose(scores: list[float], count: int, extremes: int) -> list[tuple[str, int]]:
    total = len(scores)
    spread = [("spread", i * total // min(count, total)) for i in range(min(count, total))]
    if total < 3 * extremes:
        return spread
    order = sorted(range(total), key=lambda i: scores[i])
    middle = (total - extremes) // 2
    worst = [("worst", i) for i in order[:extremes]]
    return spread + worst + [("median", i) for i in order[middle : middle + extremes]]


def _psnr(image: Tensor, output: Tensor) -> Tensor:
    error = (image.double() - output.double()).square().mean((1, 2, 3)).cpu()
    return (10 * (255.0**2 / error.clamp_min(1e-300)).log10()).clamp_max(100.0)


def _image(pixels: Tensor) -> NDArray[np.uint8]:
    return pixels.permute(1, 2, 0).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class _Basis:
    mean: Tensor
    directions: Tensor
    scale: Tensor
    explained: list[float]


class _Moments:
    """Sums of the latents of all positions, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = torch.zeros(0, dtype=torch.float64)
        self.products = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, latent: Tensor) -> None:
        flat = latent.double().transpose(0, 1).flatten(1).cpu()
        if not self.count:
            self.sum, self.products = flat.sum(1), flat @ flat.T
        else:
            self.sum, self.products = self.sum + flat.sum(1), self.products + flat @ flat.T
        self.count += flat.shape[1]

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        mean = self.sum / self.count
        variance = (self.products.diagonal() / self.count - mean.square()).clamp_min(0)
        return mean.tolist(), variance.sqrt().tolist()

    def basis(self) -> _Basis:
        mean = self.sum / self.count
        values, vectors = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        values, directions = values.clamp_min(0).flip(0), vectors.flip(1)
        # The sign of a component is arbitrary: the largest entry is made positive for reproducible pictures.
        signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        keep = min(3, len(values))
        total = values.sum().clamp_min(1e-300)
        return _Basis(
            mean=mean,
            directions=(directions * signs)[:, :keep],
            scale=values[:keep].sqrt().clamp_min(1e-12),
            explained=(values / total).tolist(),
        )


def _colors(latent: Tensor, basis: _Basis) -> NDArray[np.uint8]:
    """(B, h, w, 3) uint8: components as red, green, blue; two standard deviations around grey."""
    flat = latent.double().cpu().permute(0, 2, 3, 1) - basis.mean
    components = flat @ basis.directions / basis.scale
    unit = (components / 4 + 0.5).clamp(0, 1)
    padded = torch.cat([unit, torch.full((*unit.shape[:-1], 3 - unit.shape[-1]), 0.5)], -1)
    return (padded * 255).round().to(torch.uint8).numpy()
