"""Photos to files of latents of both flips: `vtp encode --source` against the way of LightningDiT's script.

That script has a torchvision data set for each flip, so that each photo is read twice: Pillow, ADM's crop,
`ToTensor`, `Normalize`; one pass of the encoder a flip in float32 with torch's attention, and a safetensors
file. Both sides have the same weights, write the same tensors and read in the timed thread.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.artefact.latent_manifest import LatentManifest
from vtp_core.artefact.preparation import prepare
from vtp_core.data.opening import open_source
from vtp_core.evaluation.progress import silent
from vtp_core.latents.encoding import encode_source
from vtp_core.ops import attention_choice
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.plugins import load_plugins
from vtp_core.recipe.reading.component import read_component
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.models import FORMAT, build_tokenizer, check, read

__all__ = ["FORMAT", "SHAPES", "build"]

SHAPES = ("quickstart:4x64", "vtp_s:8x256")
CLOSE = 2e-2
"""Relative error that is allowed: the crops round differently, by one of 256 levels almost everywhere."""
ROWS = 8


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Smooth photos with noise, 375 x 500 pixels, as JPEG files; fresh weights."""
    if options.precision != "float32":
        raise ValueError("latents are extracted in float32")
    recipe, count, edge = read(shape)
    root = Path(tempfile.mkdtemp(prefix="latents-out-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _photos(root / "photos" / "one", count)
    numbers = itertools.count()
    models = {packed: _tokenizer(recipe, options, packed=packed) for packed in (False, True)}
    theirs = _tokenizer(recipe, options, packed=False)
    use_attention = getattr(theirs.encoder, "use_attention", None)
    if use_attention is not None:
        use_attention(attention_choice("sdpa"))

    def fresh(suffix: str = "") -> Path:
        return root / f"{next(numbers)}{suffix}"

    def script() -> Tensor:
        return _by_script(theirs, root / "photos", fresh(".safetensors"), edge)

    def ours(packed: bool) -> Callable[[], Tensor]:
        return lambda: _by_us(models[packed], root / "photos", fresh(), edge)

    return BenchCase(
        name="latents_out",
        question="How fast are photos turned into files of latents, beside the published extraction script?",
        shape=shape,
        rows=count,
        unit="photos",
        variants={
            "LightningDiT's script": script,
            "vtp encode --exact": ours(packed=False),
            "vtp encode": ours(packed=True),
        },
        check=lambda found, expected: check(found, expected, CLOSE),
    )


def _photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = numpy.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=numpy.uint8))
        pixels = numpy.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), dtype=numpy.int16)
        pixels = (pixels + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.jpg", quality=90)


def _tokenizer(recipe: str, options: BenchOptions, *, packed: bool) -> Tokenizer:
    model = build_tokenizer(recipe, options)
    if packed:
        list(prepare(model, load_plugins()))
    return model


def _by_us(model: Tokenizer, photos: Path, folder: Path, edge: int) -> Tensor:
    table = read_component("source", {"use": "image_folder", "path": str(photos)}, load_plugins())
    source = open_source(table, DecodeLimits(), load_plugins())
    manifest = LatentManifest(
        vtp_version="0", tokenizer=TokenizerName(name="bench", fingerprint="0"), source="photos",
        samples=len(source), image_size=edge, flips=True, shard_samples=10_000, fields=("latent", "label"),
    )  # fmt: skip
    encode_source(source, folder, manifest, lambda: model, rows=ROWS, show=silent)
    tensors = load_file(folder / manifest.shards[0])
    return torch.cat([tensors["latents"], tensors["latents_flip"]])


@torch.no_grad()
def _by_script(model: Tokenizer, photos: Path, path: Path, edge: int) -> Tensor:
    loaders = []
    for chance in (0.0, 1.0):
        steps = [
            transforms.Lambda(lambda image: _crop_of_adm(image, edge)),
            transforms.RandomHorizontalFlip(chance),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
        loaders.append(DataLoader(ImageFolder(str(photos), transforms.Compose(steps)), batch_size=ROWS))
    parts: dict[str, list[Tensor]] = {"latents": [], "latents_flip": [], "labels": []}
    for both in zip(*loaders, strict=True):
        parts["labels"].append(both[0][1])
        for name, (pixels, _) in zip(("latents", "latents_flip"), both, strict=True):
            parts[name].append(model.encode(pixels).latent)
    tensors = {name: torch.cat(values).contiguous() for name, values in parts.items()}
    save_file(tensors, path)
    return torch.cat([tensors["latents"], tensors["latents_flip"]])


def _crop_of_adm(image: Image.Image, edge: int) -> Image.Image:
    """Pillow's halving, bicubic resize and centre, as in ADM's data pipeline."""
    while min(image.size) >= 2 * edge:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = edge / min(image.size)
    size = round(image.width * factor), round(image.height * factor)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.crop((left, top, left + edge, top + edge))
