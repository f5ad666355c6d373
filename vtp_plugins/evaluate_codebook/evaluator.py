"""Use of codebooks over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.evaluation.evaluator import Aspect, Evaluator, Observation
from vtp_core.evaluation.jackknife import Estimate, parts_of
from vtp_core.evaluation.protocol import Baseline, Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_codebook.config import CodebookConfig
from vtp_plugins.vq.meters import entropy_of

PARTS = 8
"""Parts of the set that the jackknife leaves out in turn."""
ONE = "one code for all"


class Codebook(Evaluator):
    """Fraction of the codes that the held-out images use, and perplexity, of each codebook.

    Codebooks have the names of the latent's branches if there is one for each, else their numbers. Vectors
    that are not finite have no code and are not counted.
    """

    requires = frozenset({"encode", "codes"})
    config: CodebookConfig

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__(config)
        self._counts: dict[str, Tensor] = {}

    @property
    def protocol(self) -> str:
        """Name and version."""
        return "codebook-v1 (codes of all positions of all images)"

    @property
    def aspect(self) -> Aspect:
        """Codes are what a generative model learns."""
        return "generation"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`usage_<codebook>` and `perplexity_<codebook>`."""
        found = {}
        for name, counts in self._counts.items():
            found[f"usage_{name}"] = Metric(title=f"Codes used, codebook {name}", digits=3, low=0, high=1)
            found[f"perplexity_{name}"] = Metric(
                title=f"Perplexity, codebook {name}", digits=1, low=1, high=counts.shape[1]
            )
        return found

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Sets all counts to zero."""
        sizes = model.bottleneck.codebook_sizes
        names = list(model.bottleneck.branch_channels)
        if len(names) != len(sizes):
            names = [str(number) for number in range(len(sizes))]
        self._counts = {
            name: torch.zeros(PARTS, size, dtype=torch.float64)
            for name, size in zip(names, sizes, strict=True)
        }

    def update(self, seen: Observation) -> None:
        """Counts the codes of a held-out batch."""
        indices = seen.encoded.indices
        assert indices is not None
        parts = parts_of(seen.batch.keys, PARTS)
        for part in parts.unique().tolist():
            own = indices.cpu()[parts == part]
            for counts, codes in zip(self._counts.values(), own.unbind(1), strict=True):
                counts[part] += torch.bincount(codes[codes >= 0], minlength=counts.shape[1])

    def state(self) -> Tally:
        """How often each code was used, by part of the set."""
        return Tally(sums=dict(self._counts))

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """Usage and perplexity; with the usage, what an even draw of as many codes would use."""
        scores = {}
        for name, by_part in state.sums.items():
            counts = by_part.sum(0)
            filled = [part for part in by_part if part.any()]
            rests = [counts - part for part in filled] if len(filled) > 1 else []
            vectors, codes = float(counts.sum()), len(counts)
            even = -math.expm1(vectors * math.log1p(-1 / codes)) if codes > 1 else float(vectors > 0)
            also = {"of an even draw": even, "vectors": vectors, "codes": codes}
            scores[f"usage_{name}"] = _score(_usage, counts, rests, also=also)
            entropy = float(entropy_of(counts)) / math.log(2)
            also = {"entropy, bits": entropy, "bits of a code": math.log2(codes)}
            scores[f"perplexity_{name}"] = _score(_perplexity, counts, rests, also=also)
        return scores


def _usage(counts: Tensor) -> float:
    return float((counts > 0).double().mean())


def _perplexity(counts: Tensor) -> float:
    return math.exp(float(entropy_of(counts)))


def _score(
    figure: Callable[[Tensor], float],
    counts: Tensor,
    rests: Sequence[Tensor],
    *,
    also: Mapping[str, float],
) -> Score:
    """A figure of counts (K,), with its jackknife error, beside that of a codebook that has collapsed."""
    own = Estimate(value=figure(counts), without=[figure(rest) for rest in rests])
    one = torch.zeros_like(counts)
    one[0] = 1
    collapsed = Baseline(value=figure(one), error=own.error)
    return Score(value=own.value, baselines={ONE: collapsed}, error=own.error, also=also)
