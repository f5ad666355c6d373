"""Distances of generated samples to real images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import GeneratedBatch, Observation, Split
from vtp_core.evaluation.jackknife import key_hashes
from vtp_core.evaluation.protocol import GeneratedPass, Score
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.statistics import statistics_of
from vtp_core.view import size_text
from vtp_plugins.evaluate_frechet.comparison import LEAST, Compared, FeatureDistances
from vtp_plugins.evaluate_frechet.config import STATISTICS, FrechetGeneratedConfig
from vtp_plugins.evaluate_frechet.features import Collected
from vtp_plugins.evaluate_frechet.metric import Moments
from vtp_plugins.evaluate_frechet.statistics import (
    COVARIANCE,
    FEATURES,
    MEAN,
    About,
    Statistics,
    read_statistics,
    write_statistics,
)

GAUSSIAN = "Gaussian latents"
SPLITS = {"train": "training", "held_out": "held-out"}
OWN_STATISTICS = (
    "as no set is read, the Gaussian latents follow the statistics by which the tokenizer normalises latents"
)
NO_STATISTICS = (
    "no trivial answer: Gaussian latents could follow neither a set, as none is read, nor the tokenizer, "
    "which has no latent statistics; set floor = true, or measure them with `vtp export`"
)
NOISE = zlib.crc32(b"Gaussian latents of frechet_generated") << 30
"""Keeps the noise of the baseline apart from that of generators."""


class FrechetGenerated(FeatureDistances):
    """Fréchet distance, kernel distance, precision and recall of generated samples and real images.

    The baseline decodes Gaussian latents whose channels have the mean and the deviation of the reference's
    latents; where no set is read, those by which the tokenizer normalises latents, if it has some. The
    distance between training set and held-out set is shown beside the number.
    """

    requires = frozenset({"encode", "decode", "generate"})
    prefix = "g"
    what = " of samples"
    config: FrechetGeneratedConfig

    def __init__(self, config: FrechetGeneratedConfig) -> None:
        super().__init__(config)
        other: Split = "train" if config.reference == "held_out" else "held_out"
        self._floor_split: Split | None = other if config.floor else None
        used = {config.reference, self._floor_split}
        self.uses_train, self.uses_held_out = "train" in used, "held_out" in used
        self.train_role, self.held_out_role = (
            "against" if config.reference == split else "floor of" for split in ("train", "held_out")
        )
        self._lacking: list[str] = []
        self._latents = torch.zeros(0, dtype=torch.float64)
        self._mean = self._deviation = torch.zeros(0)
        self._follows_own = False
        self._size = ""

    @property
    def compared(self) -> Compared:
        """Samples and Gaussian latents against the reference."""
        return Compared(
            made="samples",
            reference=SPLITS.get(self.config.reference, ""),
            trivial=[GAUSSIAN],
            floor=SPLITS[self._floor_split] if self._floor_split is not None else None,
        )

    @property
    def _latent_split(self) -> Split | None:
        """The set whose latents the baseline follows: the reference, else what the floor reads, else none."""
        return "train" if self.config.reference == "train" else "held_out" if self.uses_held_out else None

    @property
    def generated(self) -> GeneratedPass:
        """The samples."""
        config = self.config
        return GeneratedPass(samples=config.count, seed=config.seed, settings=config.settings)

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Too few samples or reference images."""
        reference = {"train": train, "held_out": held_out}.get(self.config.reference)
        counts = {"`samples`": self.config.count}
        if reference is not None:
            counts[reference.name] = len(reference.indices())
        for name, count in counts.items():
            if count < self.least:
                forced = "" if self.least == LEAST else ", or set allow_fewer = true"
                return f"it needs {self.least} images, and {name} has {count}; take more{forced}"
        floor = {"train": train, "held_out": held_out}.get(self._floor_split or "")
        if floor is not None:
            counts[floor.name] = len(floor.indices())
        return self.too_many(counts)

    def load(self) -> None:
        """Reads the networks' weights, and the reference if it is a file."""
        super().load()
        if self.config.reference.endswith(STATISTICS) and not self.saved:
            self.saved = self._read(Path(self.config.reference).expanduser())

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets the state."""
        super().begin(model, classes)
        self._latents = torch.zeros(3, model.bottleneck.channels, dtype=torch.float64)
        self._mean = self._deviation = torch.zeros(0)
        known = model.config is not None and model.config.latents_mean is not None
        self._follows_own = self._latent_split is None and known
        if self._follows_own:
            mean, factor = statistics_of("frechet_generated", model.config)
            self._mean, self._deviation = mean.float(), (1 / factor).float()

    def update(self, seen: Observation) -> None:
        """Adds a batch of the training or the held-out set."""
        self._size = size_text((seen.image.shape[-2], seen.image.shape[-1])) + " px"
        self.sets.add(SPLITS[seen.split], seen.image, key_hashes(seen.batch.keys), seen.batch.keys)
        if seen.split == self._latent_split:
            latent = seen.encoded.latent.double().transpose(0, 1).flatten(1).cpu()
            count = torch.full((len(latent),), float(latent.shape[1]), dtype=torch.float64)
            self._latents += torch.stack([count, latent.sum(1), latent.square().sum(1)])

    def before_generated(self) -> Tally:
        """Sums of the reference's latents by channel."""
        return Tally(sums={"latents": self._latents})

    def begin_generated(self, shared: Tally) -> None:
        """Mean and deviation of the latents by channel."""
        if self._latent_split is None:
            return
        count, total, squares = shared.sums["latents"]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        self._mean, self._deviation = (x.float().view(1, -1, 1, 1) for x in (mean, deviation))

    def update_generated(self, seen: GeneratedBatch) -> None:
        """Adds a batch of samples, and as many Gaussian latents."""
        places, keys = seen.indices.cpu(), [str(index) for index in seen.indices.tolist()]
        truncate = self.preparation.rounding == "truncate"
        self.sets.add("samples", to_uint8(seen.decoded, "imagenet", truncate=truncate), places, keys)
        if not len(self._mean):
            return
        noise = row_randn(row_seeds(NOISE + seen.seed % NOISE, seen.indices), *seen.latent.shape[1:])
        latent = (noise * self._deviation.to(noise) + self._mean.to(noise)).to(seen.latent.dtype)
        decoded: Tensor = seen.model.decode(latent).sample
        require_finite("frechet_generated", {"an image of Gaussian latents is": decoded}, seen.model)
        self.sets.add(GAUSSIAN, to_uint8(decoded, "imagenet", truncate=truncate), places, keys)

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Every metric; writes `save_reference`."""
        if self.config.save_reference is not None:
            self._write(Path(self.config.save_reference).expanduser(), state)
        return super().compute(state)

    def _notes(self, collected: Collected) -> list[str]:
        lacking = list(self._lacking)
        if self._latent_split is None:
            lacking.append(OWN_STATISTICS if self._follows_own else NO_STATISTICS)
        return [*super()._notes(collected), *lacking]

    def _read(self, path: Path) -> list[Statistics]:
        found = [
            read_statistics(path, network.name, network.width, network.description)
            for network in self.networks
        ]
        for count in (one.count for one in found if one.count is not None):
            if count < self.least:
                raise UsageError(
                    f"reference {path} is of {count} images, and {self.least} are needed; write it of more"
                    + ("" if self.least == LEAST else ", or set allow_fewer = true")
                )
        if self.keeps_rows and not all(one.has_rows for one in found):
            if self.follows is None:
                raise UsageError(
                    f"reference {path} holds no features of images and no images, which kernel and "
                    'precision_recall need; metrics = ["frechet"] needs none'
                )
            self.measured = ("frechet",)
            self._lacking = [
                f"{self.follows.name} also has precision and recall, which are not measured: "
                f"{path.name} holds no images (arr_0)"
            ]
        for images in (one.images for one in found if self.keeps_rows):
            if images is not None and images.count < LEAST:
                raise UsageError(f"reference {path} holds {images.count} images, and pairs need {LEAST}")
            if images is not None and (reason := self.too_many({path.name: images.count})):
                raise UsageError(reason)
        return found

    def _write(self, path: Path, state: Tally) -> None:
        found, about = {}, {}
        for number, network in enumerate(self.networks):
            collected = Collected(state, number, network.width)
            sums = collected.sums(self.compared.reference).sum(0)
            mean, covariance = Moments(network.width, sums).mean_and_covariance()
            found[network.name] = {MEAN: mean, COVARIANCE: covariance}
            about[network.name] = About(extractor=network.description, images=int(sums[0]), size=self._size)
            if self.keeps_rows:
                found[network.name][FEATURES] = collected.rows(self.compared.reference)
        write_statistics(path, found, about)
