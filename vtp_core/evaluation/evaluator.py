"""The evaluator interface, and the batches that evaluators receive.

All evaluators share one `Observation` of a batch, so that it is encoded and decoded at most once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.config import ComponentConfig
from vtp_core.encoded import Encoded, require_finite
from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation
from vtp_core.evaluation.protocol import GeneratedPass, Metric, Score
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Features, Tally
from vtp_core.pixels import UNIT, convert, to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_finite_features, check_finite_latent

Split = Literal["train", "held_out"]
Aspect = Literal["fidelity", "understanding", "generation"]


class Observation:
    """A batch and the tokenizer's outputs for it, each computed on first use.

    Attributes:
        model: The tokenizer, in eval mode.
        batch: Float pixels, ImageNet-normalised, on the tokenizer's device.
        split: The set that the batch belongs to.
        preparation: Rounding and precision.
    """

    def __init__(
        self, model: Tokenizer, batch: Batch, split: Split, preparation: Preparation | None = None
    ) -> None:
        self.model = model
        self.batch = batch
        self.split = split
        self.preparation = preparation if preparation is not None else Preparation()

    @cached_property
    def features(self) -> Features:
        """Encoder tokens, with the layers that the bottleneck and the exported image head read."""
        head = self.model.exports["embed_image"] if "embed_image" in self.model.exports else None
        layers = {*self.model.bottleneck.layers, *getattr(head, "layers", ())}
        with self.precision():
            features = self.model.features(self.batch.image, sorted(layers))
        check_finite_features(features, self.model.encoder)
        return features

    @cached_property
    def encoded(self) -> Encoded:
        """Latents; of a variational bottleneck the mode."""
        features = self.features
        with self.precision():
            encoded = self.model.encode_features(features)
        check_finite_latent(encoded, self.model.bottleneck)
        return encoded

    @cached_property
    def image(self) -> Tensor:
        """The input images, (B, 3, H, W) uint8; float32 in [0, 255] where a protocol doesn't round."""
        return self._shown(self.batch.image)

    @cached_property
    def reconstruction(self) -> Tensor:
        """The reconstructed images, clamped, of the type of `image`."""
        latent = self.encoded.latent.to(self.batch.image.dtype)
        return self._shown(self.model.decode(latent).sample)

    @cached_property
    def image_embedding(self) -> Tensor:
        """(B, E), L2-normalised."""
        with self.precision():
            return self.model.embed_features(self.features)

    def _shown(self, image: Tensor) -> Tensor:
        rounding = self.preparation.rounding
        if rounding == "none":
            return convert(image.float(), "imagenet", UNIT).clamp(0, 1) * 255
        return to_uint8(image, "imagenet", truncate=rounding == "truncate")

    def precision(self) -> torch.autocast:
        """The precision in which encoder and bottleneck compute."""
        lower = self.preparation.encode == "bfloat16"
        return torch.autocast(self.batch.image.device.type, torch.bfloat16, enabled=lower)


class GeneratedBatch:
    """A batch of generated samples, each output computed on first use.

    Attributes:
        model: The tokenizer, in eval mode.
        indices: (B,) int64, indices of the samples, on the tokenizer's device.
        seed: Seed of all samples.
        settings: Changes of the generator's settings, or None.
    """

    def __init__(
        self, model: Tokenizer, indices: Tensor, seed: int, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.model = model
        self.indices = indices
        self.seed = seed
        self.settings = settings

    @cached_property
    def latent(self) -> Tensor:
        """(B, d, h, w)."""
        latent = self.model.generate(self.indices, self.seed, settings=self.settings)
        require_finite("generate", {"the generated latent is": latent}, self.model.exports["generate"])
        return latent

    @cached_property
    def decoded(self) -> Tensor:
        """The decoded images, (B, 3, H, W), ImageNet-normalised, not clamped."""
        return self.model.decode(self.latent).sample

    @cached_property
    def image(self) -> Tensor:
        """The decoded images, (B, 3, H, W) uint8, clamped and rounded."""
        return to_uint8(self.decoded, "imagenet")


class Evaluator(ABC):
    """Measures a frozen tokenizer. Constructed as ``Evaluator(config)``, which opens no file.

    The runner checks that it can measure this tokenizer and these sets, calls `load` and `begin`, then
    `update` for every batch of the training set (if `uses_train`) and of the held-out set (if
    `uses_held_out`); if `generated`, then `begin_generated` and `update_generated` for every batch of
    generated samples. It reduces `state` over ranks and calls `compute` on rank 0.

    Attributes:
        requires: Capabilities of the tokenizer: encode, decode, codes, branches, class_tokens, embed_image,
            embed_text, generate.
        fields: Sample fields that it reads besides the image: text, label.
        optional_fields: Those that it reads where the set has them.
        on_request: Why `vtp eval` leaves it out unless a recipe or ``--evaluator`` names it, such as minutes
            of training; empty: it doesn't.
        uses_train: Whether it fits something on the training set.
        uses_held_out: Whether it measures the held-out set.
        held_out_role: What the held-out set is for, as the protocol says it: ``on``.
        train_role: What the training set is for.
        follows: The named protocol that its table chooses; it fixes crop, rounding and the number of images.
        forced: Whether other images or other samples are measured all the same, and marked.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"encode"})
    fields: ClassVar[frozenset[str]] = frozenset()
    optional_fields: ClassVar[frozenset[str]] = frozenset()
    on_request: ClassVar[str] = ""
    uses_train: bool = False
    uses_held_out: bool = True
    held_out_role: str = "on"
    train_role: str = "fitted on"
    follows: NamedProtocol | None = None
    forced: bool = False

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name, version and settings: all that affects the numbers except the data."""

    def protocol_of(self, metric: str) -> str:
        """`protocol` of one metric, without the settings that only other metrics depend on."""
        return self.protocol

    def fields_of(self, data: EvaluationSet) -> frozenset[str]:
        """What it reads of a set: images, `fields`, and those of `optional_fields` that the set has."""
        return frozenset({"image"}) | self.fields | (self.optional_fields & data.source.fields)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Metric -> title, unit and direction; a metric that is not listed is shown by its key."""
        return {}

    @property
    def preparation(self) -> Preparation:
        """Crop, rounding and precision; evaluators with equal ones share a pass."""
        return self.follows.preparation if self.follows is not None else Preparation()

    @property
    def generated(self) -> GeneratedPass | None:
        """Samples to generate, or None; evaluators with equal values share the samples."""
        return None

    @property
    def aspect(self) -> Aspect:
        """What its numbers are about, by what it requires; the report has a card for each."""
        if self.generated is not None or "generate" in self.requires:
            return "generation"
        return "fidelity" if "decode" in self.requires else "understanding"

    @property
    def least_samples(self) -> int:
        """Smallest held-out set that it accepts."""
        return 0

    @classmethod
    def must_download(cls, config: ComponentConfig) -> str | None:
        """What `load` with this table fetches from a network, and how to install it; None: nothing.

        `vtp eval` leaves it out for this reason unless a recipe or ``--evaluator`` names it.
        """
        return None

    def refuses(self, model: Tokenizer) -> str | None:
        """Why it can't measure this tokenizer, beyond `requires`; None if it can.

        Asked before step 0 of a run, of networks whose weights may be on the meta device.
        """
        return None

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Why it can't measure these sets, such as a lack of class names; None if it can.

        Asked before step 0 of a run, when fields and number of samples are known to be right.
        """
        return None

    def load(self) -> None:  # noqa: B027 (optional to override)
        """Reads the files that it needs, such as a network's weights; a second call reads none.

        Called after all checks of table, tokenizer and sets have passed, so that no weights are searched or
        downloaded for an evaluator that can't run.

        Raises:
            UsageError: A file is not found or doesn't fit.
        """

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:  # noqa: B027 (optional to override)
        """Resets the state before the first batch.

        Args:
            model: The tokenizer.
            classes: Class names by index; empty without held-out data or if the source has none.
        """

    def update(self, seen: Observation) -> None:
        """Adds a batch of the training or held-out set to the state; sums are float64."""
        raise NotImplementedError

    def before_generated(self) -> Tally:
        """What every rank needs of both sets before the generated pass, such as means of latents; small."""
        return Tally()

    def begin_generated(self, shared: Tally) -> None:  # noqa: B027 (optional to override)
        """Receives `before_generated` of all ranks: sums added, rows concatenated."""

    def update_generated(self, seen: GeneratedBatch) -> None:
        """Adds a batch of generated samples to the state."""
        raise NotImplementedError

    @abstractmethod
    def state(self) -> Tally:
        """This rank's state: `sums` are added over ranks, `rows` concatenated.

        Names are the same on every rank, also on one without a batch.
        """

    @abstractmethod
    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Metric -> score, from the state of all ranks on the CPU; independent of the order of `rows`."""
