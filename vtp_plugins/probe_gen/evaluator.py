"""The proxy of `vtp probe-gen` as an evaluator, for the leaderboard and for runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.evaluation.evaluator import Aspect, Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.jackknife import Estimate
from vtp_core.evaluation.protocol import Baseline, Metric, Score
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.evaluation.sets.least_hashes import LeastHashes, image_hashes, least
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.probe_gen.config import LEAST_IMAGES, ProbeGenConfig
from vtp_plugins.probe_gen.distance import Meter
from vtp_plugins.probe_gen.images import UNKNOWN, KeptImages
from vtp_plugins.probe_gen.measure import Probe, Subject, described
from vtp_plugins.probe_gen.ranking import GAUSSIAN

KERNEL, FRECHET = "probe_gen_kernel", "probe_gen_frechet"
BYTES = 2**30
"""Most bytes of images that are kept."""
ONE_SEED = "one proxy: the error is over its samples alone; seeds = 3 measures that over proxies"
FEW = "no Fréchet distance: it needs more images and samples than the network has features"
TYPES = {"order": torch.int64, "image": torch.uint8, "label": torch.int64}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one proxy reached.

    Attributes:
        kernel: Kernel distances of its samples and of Gaussian latents.
        frechet: The same of the Fréchet distance; None with too few images or samples.
        loss: Mean training loss of the last tenth of the steps.
        parameters: Number of trained parameters.
        notes: What a reader of the numbers should know.
    """

    kernel: tuple[Estimate, Estimate]
    frechet: tuple[Estimate, Estimate] | None
    loss: float
    parameters: int
    notes: tuple[str, ...]


class ProbeGen(Evaluator):
    """Distance of the samples of a small generator, trained on the latents, to the training images.

    The ranks keep the images of least hash, and rank 0 encodes them in this order, in batches of its own:
    latents of other batches would differ in their last bits, and training enlarges such differences. The
    held-out set is not used. The trivial answer is Gaussian latents of the same mean and deviation a channel,
    decoded.
    """

    requires = frozenset({"encode", "decode"})
    optional_fields = frozenset({"label"})
    on_request = "it trains a generator, which takes minutes"
    uses_train = True
    uses_held_out = False
    train_role = "trained on and compared with images of"
    config: ProbeGenConfig

    def __init__(self, config: ProbeGenConfig) -> None:
        super().__init__(config)
        self._meter = Meter(config, torch.device("cpu"))
        self._model: Tokenizer | None = None
        self._kept = LeastHashes(config.images)

    @property
    def protocol(self) -> str:
        """That of `vtp probe-gen`, with the images and the seeds."""
        c = self.config
        return described(
            c,
            self._meter,
            "classes where there are several",
            "evaluator: in place of images spread over the source, those of least hash of key and pixels in "
            f"this order: at most {c.images} and 2^{math.log2(BYTES):.0f} bytes",
            f"seed {c.seed}" if c.seeds == 1 else f"mean of seeds {c.seed} to {c.seed + c.seeds - 1}",
        )

    @property
    def aspect(self) -> Aspect:
        """A generative model learns the latents."""
        return "generation"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Both distances."""
        network = self.config.network.removeprefix("timm:")
        titles = {KERNEL: "Kernel distance", FRECHET: "Fréchet distance"}
        return {
            metric: Metric(
                title=f"{title} of a small generator's samples, {network}",
                higher_is_better=False,
                low=0 if metric == FRECHET else None,
            )
            for metric, title in titles.items()
        }

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Too few training images."""
        assert train is not None
        if (count := len(train.indices())) < LEAST_IMAGES:
            return f"it needs {LEAST_IMAGES} training images, and {train.name} has {count}"
        return None

    def load(self) -> None:
        """Reads the weights of the feature network."""
        self._meter.load()

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Drops the images."""
        assert model.config is not None
        self._model = model
        self._meter.to(model.device)
        height, width = sides(model.config.image_size)
        self._kept = LeastHashes(max(LEAST_IMAGES, min(self.config.images, BYTES // (3 * height * width))))

    def update(self, seen: Observation) -> None:
        """Keeps the images of a training batch that are among those of least hash."""
        order = image_hashes(seen.batch.keys, seen.image)
        admitted = self._kept.admits(order)
        label = seen.batch.label
        label = torch.full_like(order, UNKNOWN) if label is None else label.cpu()
        self._kept.add(
            {"order": order[admitted], "image": seen.image.cpu()[admitted], "label": label[admitted]}
        )

    def state(self) -> Tally:
        """The images with their hashes and labels."""
        rows = self._kept.rows
        return Tally(
            rows={name: rows.get(name, torch.zeros(0, dtype=dtype)) for name, dtype in TYPES.items()}
        )

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Trains the proxies and measures their samples.

        Raises:
            DataError: Too few images.
            NumericError: A latent, a loss or a decoded sample is not finite.
        """
        model, config = self._model, self.config
        assert model is not None
        images = KeptImages.of(least(state.rows, self._kept.most))
        data = EvaluationSet(name="the training set", source=images)
        # The runner measures without gradients, which the proxies need.
        with torch.enable_grad():
            subject = Probe(data, config, model.device, meter=self._meter).subject(model)
            reconstruction = subject.reconstruction
            found = [self._measured(subject, config.seed + number) for number in range(config.seeds)]
        also = {
            "images": len(images),
            "classes": len(images.classes),
            "training loss": math.fsum(one.loss for one in found) / len(found),
            "trained parameters": found[0].parameters,
        }
        notes = [*found[0].notes, *([ONE_SEED] if config.seeds == 1 else [])]
        frechets = [one.frechet for one in found if one.frechet is not None]
        scores = {
            KERNEL: self._score(
                [one.kernel for one in found],
                {**also, "reconstructions": reconstruction.kernel},
                notes if frechets else [*notes, FEW],
            )
        }
        if frechets and reconstruction.frechet is not None:
            scores[FRECHET] = self._score(
                frechets, {**also, "reconstructions": reconstruction.frechet}, notes
            )
        return scores

    def _measured(self, subject: Subject, seed: int) -> Measured:
        """One proxy."""
        steps = self.config.steps
        made = subject.generate(seed, (steps,))
        real = subject.probe.real(subject.tokenizer)
        sets = {"samples": made.samples[steps], GAUSSIAN: made.gaussian}
        kernels = [self._meter.kernel(rows, real) for rows in sets.values()]
        frechet = None
        if self._meter.has_covariances(*sets.values(), real):
            frechets = self._meter.frechet(sets, real)
            frechet = (frechets["samples"], frechets[GAUSSIAN])
        return Measured(
            kernel=(kernels[0], kernels[1]),
            frechet=frechet,
            loss=made.proxy.loss,
            parameters=made.proxy.parameters,
            notes=made.proxy.notes,
        )

    def _score(
        self, found: Sequence[tuple[Estimate, Estimate]], also: Mapping[str, float], notes: Sequence[str]
    ) -> Score:
        """Of one proxy with the jackknife's error over samples, of several with that of their mean."""
        if len(found) > 1:
            own, gaussian = (_column([pair[at] for pair in found]) for at in (0, 1))
            seeds = {f"seed {self.config.seed + at}": value for at, value in enumerate(own.tolist())}
            return score_of(own, {GAUSSIAN: gaussian}, also={**also, **seeds}, notes=notes)
        ((made, trivial),) = found
        baseline = Baseline(value=trivial.value, error=made.error_against(trivial))
        return Score(
            value=made.value, baselines={GAUSSIAN: baseline}, error=made.error, also=also, notes=notes
        )


def _column(estimates: Sequence[Estimate]) -> Tensor:
    return torch.tensor([one.value for one in estimates], dtype=torch.float64)
