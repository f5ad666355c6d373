"""Trains the proxy on a tokenizer's latents and measures what it generates.

    record = measure(tokenizer, source, ProbeSettings(), seed=0)

`Probe` does the same for several tokenizers and seeds: it looks at the real images once for each size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.progress import Advance, Show, silent
from vtp_core.evaluation.protocol import IMAGE_PROTOCOL
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import Size, size_text
from vtp_plugins.pretrained.files import fingerprint
from vtp_plugins.probe_gen.config import LEAST_IMAGES, ProbeSettings
from vtp_plugins.probe_gen.distance import Meter
from vtp_plugins.probe_gen.latents import Latents, check_tokenizer, encode_all
from vtp_plugins.probe_gen.proxy import ABOUT, Proxy
from vtp_plugins.probe_gen.record import Distance, Point, Record

ROWS = 64
"""Images and samples at a time."""


def measure(
    tokenizer: Tokenizer,
    source: EvaluationSet,
    settings: ProbeSettings | None = None,
    seed: int = 0,
    *,
    curve: bool = False,
) -> Record:
    """One proxy on one tokenizer; see `Probe` and `Subject.measure`."""
    probe = Probe(source, settings or ProbeSettings(), tokenizer.device)
    return probe.subject(tokenizer).measure(seed, curve=curve)


class Probe:
    """The protocol on one set of images.

    Args:
        data: The images; of more than ``settings.images`` as many are chosen, spread evenly.
        settings: The proxy.
        device: Where the feature network computes: the tokenizers' device.
        show: Shows the progress.
        meter: Measures distances, on the same device; None: it is built of the settings.

    Raises:
        DataError: Too few images.
        UsageError: The weights of the feature network are not found.
    """

    def __init__(
        self,
        data: EvaluationSet,
        settings: ProbeSettings,
        device: torch.device,
        show: Show = silent,
        meter: Meter | None = None,
    ) -> None:
        limit = settings.images if data.limit is None else min(settings.images, data.limit)
        self.data = replace(data, limit=limit)
        if (count := len(self.data.indices())) < LEAST_IMAGES:
            raise DataError(f"{data.name}: {count} images are too few; probe-gen needs {LEAST_IMAGES}")
        self.settings = settings
        self.show = show
        self.meter = Meter(settings, device) if meter is None else meter
        self.meter.load()
        self._real: dict[str, Tensor] = {}
        self._hashes: dict[str, str] = {}

    def protocol(self, size: Size) -> str:
        """All that affects the numbers but tokenizer, seed and the content of the images."""
        source = self.data.source
        conditional = "label" in source.fields and len(source.classes) > 1
        classes = f"{len(source.classes)} classes" if conditional else "no classes"
        facts = self.data.facts(len(self.data.indices()))
        about = described(self.settings, self.meter, classes)
        return f"{about}; {IMAGE_PROTOCOL} {size_text(size)} px; on {facts}"

    def subject(self, tokenizer: Tokenizer, name: str = "tokenizer") -> Subject:
        """A tokenizer to measure; it is encoded when its first seed is measured.

        Args:
            tokenizer: In eval mode, on the probe's device.
            name: Its name in messages.

        Raises:
            UsageError: It has no decoder or no config.
            NumericError: A weight is not finite.
        """
        check_tokenizer(tokenizer, name)
        return Subject(self, tokenizer)

    def images(self, size: Size) -> str:
        """16 hexadecimal digits of the images of a size, of their keys and of their labels."""
        if size_text(size) not in self._hashes:
            digest = hashlib.sha256()
            fields = self.data.source.fields & {"image", "label"}
            with self.show(f"hash of {self.data.name}", len(self.data.indices())) as advance:
                for batch in self.data.batches(size, ROWS, fields=fields):
                    labels = None if batch.label is None else batch.label.tolist()
                    digest.update(json.dumps([batch.keys, labels]).encode())
                    digest.update(batch.image.contiguous().numpy().tobytes())
                    advance(len(batch))
            self._hashes[size_text(size)] = digest.hexdigest()[:16]
        return self._hashes[size_text(size)]

    def real(self, tokenizer: Tokenizer) -> Tensor:
        """Features of the real images at the tokenizer's size."""
        assert tokenizer.config is not None
        size = tokenizer.config.image_size
        if size_text(size) not in self._real:
            with self.show(f"features of {self.data.name}", len(self.data.indices())) as advance:
                batches = self.data.batches(size, ROWS)
                images = (to_uint8(batch.to(tokenizer.device).image, "imagenet") for batch in batches)
                self._real[size_text(size)] = self.meter.features(_counted(images, advance))
        return self._real[size_text(size)]


def described(settings: ProbeSettings, meter: Meter, classes: str, *more: str) -> str:
    """What protocols say of the proxy and of what is measured.

    Args:
        settings: The proxy.
        meter: Measures the distances.
        classes: What the proxy is conditioned on.
        more: What else affects the numbers.
    """
    parts = [
        f"{ABOUT}: width {settings.width}, {settings.depth} blocks, {settings.heads} heads",
        classes,
        f"{settings.steps} steps of {settings.rows} latents (mode, or quantised vectors; both flips)",
        f"AdamW {settings.lr:g} after {settings.warmup} steps of warm-up, {settings.precision}",
        f"{settings.samples} samples, {settings.euler_steps} Euler steps, no guidance",
        f"features {meter.about}",
        "unbiased cubic kernel distance",
    ]
    return f"{settings.title} ({', '.join([*parts, *more])})"


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a trained proxy made, as features (n, F).

    Attributes:
        proxy: The proxy.
        gaussian: Of decoded Gaussian latents.
        samples: Training steps -> of its decoded samples.
    """

    proxy: Proxy
    gaussian: Tensor
    samples: Mapping[int, Tensor]


class Subject:
    """A tokenizer under the protocol.

    Attributes:
        size: Side of its images in pixels, or height and width.
        protocol: All else that affects its numbers but the seed and the images.
    """

    def __init__(self, probe: Probe, tokenizer: Tokenizer) -> None:
        assert tokenizer.config is not None
        self.probe = probe
        self.tokenizer = tokenizer
        self.size = tokenizer.config.image_size
        self.protocol = probe.protocol(self.size)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of what latents and images depend on: all weights and tables."""
        tokenizer = self.tokenizer
        assert tokenizer.config is not None
        tables = tokenizer.config.model_dump(mode="json", include={"encoder", "bottleneck", "decoder"})
        # Also what is kept out of the state dict, such as a frozen network of another package.
        weights = fingerprint({**dict(tokenizer.named_parameters()), **tokenizer.state_dict()})
        return hashlib.sha256(f"{json.dumps(tables, sort_keys=True)} {weights}".encode()).hexdigest()[:16]

    @property
    def images(self) -> str:
        """Hash of the images."""
        return self.probe.images(self.size)

    def steps(self, *, curve: bool) -> tuple[int, ...]:
        """Training steps after which samples are measured."""
        settings = self.probe.settings
        return settings.curve_steps() if curve else (settings.steps,)

    def measure(self, seed: int, *, curve: bool = False) -> Record:
        """Trains a proxy and measures its samples.

        Args:
            seed: Of the proxy's weights, data order, noise and samples.
            curve: Whether to measure after five numbers of training steps, not only at the end.

        Raises:
            DataError: Too few images.
            NumericError: A latent, a loss or a decoded sample is not finite.
        """
        probe, latents = self.probe, self.latents
        reconstruction = self.reconstruction
        made = self.generate(seed, self.steps(curve=curve))
        real = probe.real(self.tokenizer)
        points = []
        for step, samples in made.samples.items():
            epochs = 2 * step * probe.settings.rows / len(latents.maps)
            distance = probe.meter.distance(samples, real)
            points.append(Point(step=step, epochs=epochs, **distance.model_dump()))
        return Record(
            fingerprint=self.fingerprint,
            seed=seed,
            protocol=self.protocol,
            images=self.images,
            channels=latents.maps.shape[1],
            positions=latents.maps[0, 0].numel(),
            discrete="codes" in self.tokenizer.capabilities,
            parameters=made.proxy.parameters,
            loss=made.proxy.loss,
            curve=tuple(points),
            gaussian=probe.meter.distance(made.gaussian, real),
            reconstruction=reconstruction,
            notes=made.proxy.notes,
        )

    def generate(self, seed: int, steps: Sequence[int]) -> Generated:
        """Trains a proxy and makes samples after each number of steps; `measure` says what it raises."""
        proxy = Proxy(self.latents, self.probe.settings, seed)
        # Before the training, which would be lost if a decoded image were not finite.
        gaussian = self._made(proxy.gaussian, "Gaussian latents")
        samples = {
            step: self._made(proxy.samples, f"samples after {step} steps")
            for step in proxy.train(steps, self.probe.show)
        }
        return Generated(proxy=proxy, gaussian=gaussian, samples=samples)

    @cached_property
    def latents(self) -> Latents:
        """The latents of the images and of their mirror images."""
        return encode_all(self.tokenizer, self.probe.data, ROWS, self.probe.show)

    @cached_property
    def reconstruction(self) -> Distance:
        """Distance of reconstructions to their originals, at most as many as samples."""
        images = len(self.latents.maps) // 2
        count = min(self.probe.settings.samples, images)
        chosen = torch.arange(count) * images // count
        latents = (self.latents.maps[part.to(self.tokenizer.device)] for part in chosen.split(ROWS))
        made = self._features(latents, count, "reconstructions")
        return self.probe.meter.distance(made, self.probe.real(self.tokenizer)[chosen], paired=True)

    def _made(self, make: Callable[[Tensor], Tensor], what: str) -> Tensor:
        """Features of the images of latents that `make` makes of indices."""
        count = self.probe.settings.samples
        indices = torch.arange(count, device=self.tokenizer.device)
        return self._features((make(part) for part in indices.split(ROWS)), count, what)

    @torch.no_grad()
    def _features(self, latents: Iterable[Tensor], count: int, what: str) -> Tensor:
        """Features of decoded latents."""
        dtype = self.tokenizer.dtype
        with self.probe.show(what, count) as advance:
            images = (self.tokenizer.decode(latent.to(dtype)).sample for latent in latents)
            shown = (to_uint8(image, "imagenet") for image in images)
            return self.probe.meter.features(_counted(shown, advance))


def _counted(images: Iterable[Tensor], advance: Advance) -> Iterator[Tensor]:
    for batch in images:
        yield batch
        advance(len(batch))
