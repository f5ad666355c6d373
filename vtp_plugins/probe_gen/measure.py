"""Trains the proxy on a tokenizer's latents and measures what it generates.

    record = measure(tokenizer, source, ProbeSettings(), seed=0)

`Probe` does the same for several tokenizers and seeds: it looks at the real images once for each size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.progress import Advance, Show, silent
from vtp_core.evaluation.protocol import IMAGE_PROTOCOL
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

    Raises:
        DataError: Too few images.
        UsageError: The weights of the feature network are not found.
    """

    def __init__(
        self, data: EvaluationSet, settings: ProbeSettings, device: torch.device, show: Show = silent
    ) -> None:
        limit = settings.images if data.limit is None else min(settings.images, data.limit)
        self.data = replace(data, limit=limit)
        if (count := len(self.data.indices())) < LEAST_IMAGES:
            raise DataError(f"{data.name}: {count} images are too few; probe-gen needs {LEAST_IMAGES}")
        self.settings = settings
        self.show = show
        self.meter = Meter(settings, device)
        self._real: dict[str, Tensor] = {}

    def protocol(self, size: Size) -> str:
        """All that affects the numbers but tokenizer and seed."""
        settings, source = self.settings, self.data.source
        conditional = "label" in source.fields and len(source.classes) > 1
        parts = [
            f"{ABOUT}: width {settings.width}, {settings.depth} blocks, {settings.heads} heads",
            f"{len(source.classes)} classes" if conditional else "no classes",
            f"{settings.steps} steps of {settings.rows} latents (mode, or quantised vectors; both flips)",
            f"AdamW {settings.lr:g} after {settings.warmup} steps of warm-up, {settings.precision}",
            f"{settings.samples} samples, {settings.euler_steps} Euler steps, no guidance",
            f"features {self.meter.about}",
            "unbiased cubic kernel distance",
        ]
        facts = self.data.facts(len(self.data.indices()))
        about = f"{settings.title} ({', '.join(parts)})"
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


class Subject:
    """A tokenizer under the protocol.

    Attributes:
        fingerprint: Hash of all its weights and tables, the decoder's too.
        size: Side of its images in pixels, or height and width.
        protocol: All else that affects its numbers but the seed.
    """

    def __init__(self, probe: Probe, tokenizer: Tokenizer) -> None:
        assert tokenizer.config is not None
        self.probe = probe
        self.tokenizer = tokenizer
        self.fingerprint = _fingerprint(tokenizer)
        self.size = tokenizer.config.image_size
        self.protocol = probe.protocol(self.size)

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
        settings, probe, latents = self.probe.settings, self.probe, self.latents
        # Before the training, which would be lost if a decoded image were not finite.
        reconstruction = self._reconstruction
        proxy = Proxy(latents, settings, seed)
        gaussian = self._distance(proxy.gaussian, "Gaussian latents")
        points = []
        for step in proxy.train(self.steps(curve=curve), probe.show):
            distance = self._distance(proxy.samples, f"samples after {step} steps")
            epochs = 2 * step * settings.rows / len(latents.maps)
            points.append(Point(step=step, epochs=epochs, **distance.model_dump()))
        return Record(
            fingerprint=self.fingerprint,
            seed=seed,
            protocol=self.protocol,
            channels=latents.maps.shape[1],
            positions=latents.maps[0, 0].numel(),
            discrete="codes" in self.tokenizer.capabilities,
            parameters=proxy.parameters,
            loss=proxy.loss,
            curve=tuple(points),
            gaussian=gaussian,
            reconstruction=reconstruction,
            notes=proxy.notes,
        )

    @cached_property
    def latents(self) -> Latents:
        """The latents of the images and of their mirror images."""
        return encode_all(self.tokenizer, self.probe.data, ROWS, self.probe.show)

    @cached_property
    def _reconstruction(self) -> Distance:
        """Distance of reconstructions to their originals, at most as many as samples."""
        images = len(self.latents.maps) // 2
        count = min(self.probe.settings.samples, images)
        chosen = torch.arange(count) * images // count
        latents = (self.latents.maps[part.to(self.tokenizer.device)] for part in chosen.split(ROWS))
        made = self._features(latents, count, "reconstructions")
        return self.probe.meter.distance(made, self.probe.real(self.tokenizer)[chosen], paired=True)

    def _distance(self, make: Callable[[Tensor], Tensor], what: str) -> Distance:
        """Distance to the real images of samples that `make` makes of indices."""
        count = self.probe.settings.samples
        indices = torch.arange(count, device=self.tokenizer.device)
        made = self._features((make(part) for part in indices.split(ROWS)), count, what)
        return self.probe.meter.distance(made, self.probe.real(self.tokenizer))

    @torch.no_grad()
    def _features(self, latents: Iterable[Tensor], count: int, what: str) -> Tensor:
        """Features of decoded latents."""
        dtype = self.tokenizer.dtype
        with self.probe.show(what, count) as advance:
            images = (self.tokenizer.decode(latent.to(dtype)).sample for latent in latents)
            shown = (to_uint8(image, "imagenet") for image in images)
            return self.probe.meter.features(_counted(shown, advance))


def _fingerprint(tokenizer: Tokenizer) -> str:
    """16 hexadecimal digits of what latents and images depend on: weights and tables."""
    assert tokenizer.config is not None
    tables = tokenizer.config.model_dump(mode="json", include={"encoder", "bottleneck", "decoder"})
    # Also what is kept out of the state dict, such as a frozen network of another package.
    weights = fingerprint({**dict(tokenizer.named_parameters()), **tokenizer.state_dict()})
    return hashlib.sha256(f"{json.dumps(tables, sort_keys=True)} {weights}".encode()).hexdigest()[:16]


def _counted(images: Iterable[Tensor], advance: Advance) -> Iterator[Tensor]:
    for batch in images:
        yield batch
        advance(len(batch))
