"""The linear probe of DINOv2 and of VTP's release on an encoder's last blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from vtp_core.errors import DataError, NumericError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_dino_probe.config import BATCH, LEAST_BATCH, STEPS_OF_A_PASS, DinoProbeConfig
from vtp_plugins.evaluate_dino_probe.features import last_blocks
from vtp_plugins.evaluate_dino_probe.protocols import published
from vtp_plugins.evaluate_dino_probe.selection import best_head
from vtp_plugins.probes.answers import empty_classes, splits_of, top_1
from vtp_plugins.probes.vectors import VectorStore

_FEW_STEPS = 1000
"""Below this a note says that the heads have hardly been trained; VTP's release takes 12,500 steps."""


class DinoProbe(Evaluator):
    """Top-1 accuracy of the best of many linear heads (DINOv2; VTP's release).

    A head reads the class tokens of the last n blocks after the final norm and the mean patch token. All are
    trained in one pass by SGD. Compared with the same heads on raw pixels, averaged to at most 32 x 32, and
    with the largest class. Features are kept in float32 memory; only `vtp-2512` augments images.
    """

    requires = frozenset({"encode", "class_tokens"})
    fields = frozenset({"label"})
    uses_train = True
    metrics = {"dino_probe": Metric(title="DINO-style probe, top-1", digits=3, low=0, high=1)}
    config: DinoProbeConfig

    def __init__(self, config: DinoProbeConfig) -> None:
        super().__init__(config)
        self._store = VectorStore()
        self._classes: Sequence[str] = ()
        self._device = torch.device("cpu")
        self.follows, self.forced = published(config), config.force

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        config = self.config
        blocks = "/".join(str(count) for count in config.blocks)
        rates = "/".join(f"{rate:g}" for rate in config.rates)
        batch = config.batch or f"{BATCH} or {LEAST_BATCH} to 1/{STEPS_OF_A_PASS} of a small set"
        selected = (
            "head selected on a tenth of the training set by hash, no augmentation"
            if self.follows is None
            else "head and epoch SELECTED ON THE HELD-OUT SET"
        )
        return (
            f"probe-dino-v1 (class tokens of the last {blocks} blocks and mean patch token; linear heads by "
            f"float32 SGD, momentum 0.9, rates {rates} x batch/256, cosine to 0, {config.epochs} "
            f"epochs, batch {batch}, seed {config.seed}; {selected})"
        )

    def refuses(self, model: Tokenizer) -> str | None:
        """Needs as many blocks as `blocks` asks for."""
        most, depth = max(self.config.blocks), model.encoder.depth
        return None if most <= depth else f"`blocks` asks for the last {most} of an encoder's {depth} blocks"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected vectors."""
        self._store, self._classes, self._device = VectorStore(), classes, model.device

    def update(self, seen: Observation) -> None:
        """Adds a batch of either set."""
        self._store.add(seen, last_blocks(seen, max(self.config.blocks)))

    def state(self) -> Tally:
        """Vectors and labels."""
        return self._store.tally()

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """The accuracy, 0 to 1."""
        train, held_out = splits_of("dino_probe", state)
        config = self.config
        if len(train.label) < 10:
            raise DataError(
                f"evaluator dino_probe: {len(train.label)} labelled training images; it needs 10 or more"
            )
        width = train.features.shape[1] // (max(config.blocks) + 1)
        widths = [(count + 1) * width for count in config.blocks]

        best = partial(best_head, train, held_out, config=config, device=self._device)
        chosen = best("features", widths)
        pixels = best("pixels", [train.pixels.shape[1]])
        if not chosen.finite:
            raise NumericError("evaluator dino_probe: no head stayed finite; add smaller `rates`")
        notes = empty_classes(held_out.label, self._classes, train.label)
        if chosen.steps < _FEW_STEPS:
            notes.append(
                f"the heads were trained for {chosen.steps} steps only; they may be better with a smaller "
                "`batch` or more `epochs`"
            )
        if chosen.edge is not None:
            notes.append(
                f"the rate selected, {chosen.rate:g}, is the {chosen.edge} one tried; one beyond it may be "
                "better: extend `rates`"
            )
        if self.follows is not None:
            notes.append("head and epoch were selected on the images of this number, which flatters it")
        score = top_1(
            chosen.predicted,
            held_out.label,
            {"raw pixels": pixels.predicted},
            also={
                "blocks": config.blocks[chosen.input],
                "rate": chosen.rate,
                "selected_at": chosen.accuracy,
                "best_on_held_out": chosen.best_on_held_out,
                "raw_pixels_rate": pixels.rate,
            },
            notes=notes,
        )
        return {"dino_probe": score}
