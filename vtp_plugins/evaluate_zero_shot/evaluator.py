"""Zero-shot classification by class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.prompts import classes_of, problem, templates_of
from vtp_plugins.evaluate_zero_shot.protocols import PROTOCOLS
from vtp_plugins.probes.answers import empty_classes, top_1

_BATCH = 256
"""Prompts per batch; ImageNet has 80,000 prompts."""


class ZeroShot(Evaluator):
    """Accuracy of the classes whose prompts lie nearest to the image (CLIP, section 3.1.4).

    Compared with chance, k / classes, and with the k largest classes.
    """

    requires = frozenset({"encode", "embed_image", "embed_text"})
    fields = frozenset({"label"})
    config: ZeroShotConfig

    def __init__(self, config: ZeroShotConfig) -> None:
        super().__init__(config.settled())
        self._classes: Tensor = torch.zeros(0, 0)
        self._names: Sequence[str] = ()
        self._rows: dict[str, list[Tensor]] = {"nearest": [], "label": []}
        self.follows = None if config.protocol is None else PROTOCOLS[config.protocol]
        self.forced = config.force

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`zero_shot`, and `zero_shot_top<k>` for further k."""
        return {
            _metric(k): Metric(title=f"Zero-shot by class name, top-{k}", digits=3, low=0, high=1)
            for k in self.config.ranks
        }

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        templates, classes = self.config.templates, self.config.classes
        prompts = f"{templates}, 80 of open_clip" if isinstance(templates, str) else " | ".join(templates)
        names = {"source": "", "imagenet": ", names of imagenet in open_clip"}
        named = names[classes] if isinstance(classes, str) else f", {len(classes)} names of its own"
        return f"zero-shot-v1 (prompts {prompts}{named}, mean of unit embeddings)"

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Needs two class names or more, which a text encoder can know."""
        classes, name = ((), "") if held_out is None else (held_out.source.classes, held_out.name)
        return problem(self.config, classes, name)

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Embeds the prompts of every class."""
        self._names = names = classes_of(self.config, classes)
        self._rows = {"nearest": [], "label": []}
        templates = templates_of(self.config.templates)
        prompts = [t.replace("{class}", name.replace("_", " ")) for name in names for t in templates]
        lower = self.preparation.encode == "bfloat16"
        with torch.autocast(model.device.type, torch.bfloat16, enabled=lower):
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
        most = min(max(self.config.ranks), scores.shape[1])
        nearest = scores.argsort(dim=1, descending=True, stable=True)[:, :most]
        self._rows["nearest"].append(nearest[known].cpu())
        self._rows["label"].append(seen.batch.label[known].cpu())

    def state(self) -> Tally:
        """The nearest classes, nearest first, and the true ones."""
        empty = torch.zeros(0, dtype=torch.int64)
        return Tally(rows={name: torch.cat(parts) if parts else empty for name, parts in self._rows.items()})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`zero_shot` and `zero_shot_top<k>`: accuracies, 0 to 1."""
        nearest, label, count = state.rows["nearest"], state.rows["label"], len(self._classes)
        if not len(label):
            raise DataError("evaluator zero_shot: no held-out sample has a label")
        if int(label.max()) >= count:
            raise DataError(
                f"evaluator zero_shot: a held-out label is {int(label.max())}, but there are only "
                f"{count} class names; set `classes` to those of the labels"
            )
        notes = empty_classes(label, self._names)
        scores = {}
        for k in self.config.ranks:
            if k == 1:
                scores[_metric(1)] = top_1(nearest[:, 0], label, {"chance": 1 / count}, notes=notes)
            elif k < count:
                largest = torch.bincount(label, minlength=count).argsort(dim=0, descending=True, stable=True)[
                    :k
                ]
                scores[_metric(k)] = score_of(
                    (nearest[:, :k] == label[:, None]).any(1),
                    {f"{k} largest classes": torch.isin(label, largest), "chance": k / count},
                    notes=notes,
                )
        if not scores:
            raise DataError(
                f"evaluator zero_shot: `at` asks for the first {min(self.config.ranks)} of {count} classes; "
                "lower it"
            )
        return scores


def _metric(k: int) -> str:
    return "zero_shot" if k == 1 else f"zero_shot_top{k}"
