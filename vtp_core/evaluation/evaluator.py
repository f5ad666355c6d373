"""The evaluator interface, and what an evaluator sees of a batch.

One `Observation` is shared by all evaluators, so that a batch is encoded and decoded once whoever asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.config import ComponentConfig
from vtp_core.encoded import Encoded
from vtp_core.evaluation.protocol import GeneratedPass, Metric, Score
from vtp_core.features import Features, Tally
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer

Split = Literal["train", "held_out"]


class Observation:
    """A batch and what the tokenizer makes of it, each computed when first asked for.

    Attributes:
        model: The tokenizer, in eval mode.
        batch: Float pixels, ImageNet-normalised, on the tokenizer's device.
        split: Which set the batch is of.
    """

    def __init__(self, model: Tokenizer, batch: Batch, split: Split) -> None:
        self.model = model
        self.batch = batch
        self.split = split

    @cached_property
    def features(self) -> Features:
        """Encoder tokens, with the taps that the bottleneck and the exported image head ask for."""
        head = self.model.exports["embed_image"] if "embed_image" in self.model.exports else None
        layers = {*self.model.bottleneck.layers, *getattr(head, "layers", ())}
        return self.model.features(self.batch.image, sorted(layers))

    @cached_property
    def encoded(self) -> Encoded:
        """Latents; the mode of a variational one."""
        return self.model.encode_features(self.features)

    @cached_property
    def image(self) -> Tensor:
        """The images themselves, (B, 3, H, W) uint8."""
        return to_uint8(self.batch.image, "imagenet")

    @cached_property
    def reconstruction(self) -> Tensor:
        """The images after encode and decode, (B, 3, H, W) uint8, clamped and rounded."""
        return to_uint8(self.model.decode(self.encoded.latent).sample, "imagenet")

    @cached_property
    def image_embedding(self) -> Tensor:
        """(B, E), L2-normalised."""
        return self.model.embed_features(self.features)


class GeneratedBatch:
    """Samples that the tokenizer generates, computed when first asked for.

    Attributes:
        model: The tokenizer, in eval mode.
        indices: (B,) int64, which samples, on the tokenizer's device.
        seed: Seed of all samples.
    """

    def __init__(self, model: Tokenizer, indices: Tensor, seed: int) -> None:
        self.model = model
        self.indices = indices
        self.seed = seed

    @cached_property
    def latent(self) -> Tensor:
        """(B, d, h, w)."""
        return self.model.generate(self.indices, self.seed)

    @cached_property
    def image(self) -> Tensor:
        """The decoded images, (B, 3, H, W) uint8, clamped and rounded."""
        return to_uint8(self.model.decode(self.latent).sample, "imagenet")


class Evaluator(ABC):
    """Measures a frozen tokenizer. Constructed as ``Evaluator(config)``.

    The runner calls `begin` and then one method a batch: `update` for those of the training set (if
    `uses_train`) and of the held-out set (if `uses_held_out`), `update_generated` for samples that the
    tokenizer generates (if `generated`). It adds up `state` over ranks and calls `compute` on rank 0.

    Attributes:
        requires: Capabilities of the tokenizer: encode, decode, codes, embed_image, embed_text, generate.
        fields: Sample fields that it reads beside the image: text, label.
        uses_train: Whether it fits something on the training set.
        uses_held_out: Whether it measures the held-out set.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"encode"})
    fields: ClassVar[frozenset[str]] = frozenset()
    uses_train: ClassVar[bool] = False
    uses_held_out: ClassVar[bool] = True

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name, version and settings: all that changes the numbers and is not the data."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Metric -> its title, unit and direction; one that is not listed is shown under its own name."""
        return {}

    @property
    def generated(self) -> GeneratedPass | None:
        """The samples that it wants generated; evaluators that ask for the same ones share them."""
        return None

    @property
    def least_samples(self) -> int:
        """Held-out samples below which its numbers mean nothing; with fewer, it is refused."""
        return 0

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:  # noqa: B027 (optional to override)
        """Resets the counts, before the first batch.

        Args:
            model: The tokenizer.
            classes: Class names by index; empty without held-out data or if the source has none.
        """

    def update(self, seen: Observation) -> None:
        """Counts a batch of the training or the held-out set, in float64 where it adds up."""
        raise NotImplementedError

    def update_generated(self, seen: GeneratedBatch) -> None:
        """Counts a batch of generated samples."""
        raise NotImplementedError

    @abstractmethod
    def state(self) -> Tally:
        """What was counted on this rank: `sums` are added over ranks, `rows` concatenated.

        The same names on every rank, also on one that saw no batch.
        """

    @abstractmethod
    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Metric -> score, of the state of all ranks on the CPU; the order of `rows` must not matter."""
