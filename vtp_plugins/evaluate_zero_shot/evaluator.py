"""Zero-shot classification by class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.prompts import classes_of, templates_of
from vtp_plugins.probes.answers import top_1

_BATCH = 256
"""Prompts per batch; ImageNet has 80,000 prompts."""


class ZeroShot(Evaluator):
    """Top-1 accuracy of the class whose prompts lie nearest to the image (CLIP, section 3.1.4).

    Compared with chance, 1 / classes, and with the largest class.
    """

    requires = frozenset({"encode", "embed_image", "embed_text"})
    fields = frozenset({"label"})
    metrics = {"zero_shot": Metric(title="Zero-shot by class name, top-1", digits=3)}
    config: ZeroShotConfig

    def __init__(self, config: ZeroShotConfig) -> None:
        super().__init__(config)
        self._classes: Tensor = torch.zeros(0, 0)
        self._rows: dict[str, list[Tensor]] = {"predicted": [], "label": []}

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        templates, classes = self.config.templates, self.config.classes
        prompts = f"{templates}, 80 of open_clip" if isinstance(templates, str) else " | ".join(templates)
        names = {"source": "", "imagenet": ", names of imagenet in open_clip"}
        named = names[classes] if isinstance(classes, str) else f", {len(classes)} names of its own"
        return f"zero-shot-v1 (prompts {prompts}{named}, mean of unit embeddings)"

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Needs two class names or more."""
        names = classes_of(self.config.classes, () if held_out is None else held_out.source.classes)
        return None if len(names) > 1 else "the held-out source has no class names (`classes` can give them)"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Embeds the prompts of every class."""
        names = classes_of(self.config.classes, classes)
        self._rows = {"predicted": [], "label": []}
        templates = templates_of(self.config.templates)
        prompts = [t.replace("{class}", name.replace("_", " ")) for name in names for t in templates]
        embedded = [
            F.normalize(model.embed_text(prompts[start : start + _BATCH]).float(), dim=1)
            for start in range(0, len(prompts), _BATCH)
        ]
        by_class = torch.cat(embedded).unflatten(0, (len(names), -1))
        self._classes = F.normalize(by_class.mean(1), dim=1)

    def update(self, seen: Observation) -> None:
        """Classifies a held-out batch."""
        assert seen.batch.label is not None
        known = seen.batch.label >= 0
        scores = F.normalize(seen.image_embedding.float(), dim=1) @ self._classes.T
        self._rows["predicted"].append(scores.argmax(1)[known].cpu())
        self._rows["label"].append(seen.batch.label[known].cpu())

    def state(self) -> Tally:
        """Predicted and true classes."""
        none = torch.zeros(0, dtype=torch.int64)
        return Tally(rows={name: torch.cat([none, *parts]) for name, parts in self._rows.items()})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`zero_shot`: accuracy, 0 to 1."""
        predicted, label = state.rows["predicted"], state.rows["label"]
        if not len(label):
            raise DataError("evaluator zero_shot: no held-out sample has a label")
        if int(label.max()) >= len(self._classes):
            raise DataError(
                f"evaluator zero_shot: a held-out label is {int(label.max())}, but there are only "
                f"{len(self._classes)} class names; set `classes` to those of the labels"
            )
        return {"zero_shot": top_1(predicted, label, {"chance": 1 / len(self._classes)})}
