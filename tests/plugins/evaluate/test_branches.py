"""Use of codebooks and what branches hold, against numpy and by construction."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm, t
from torch import Tensor, nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Features
from vtp_core.testing import TINY_DIMS, ShapesSource, TinyNetworks, check_evaluator
from vtp_core.testing.networks import TinyDecoder
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_branches.config import BranchesConfig
from vtp_plugins.evaluate_branches.evaluator import Branches
from vtp_plugins.evaluate_codebook.config import CodebookConfig
from vtp_plugins.evaluate_codebook.evaluator import Codebook
from vtp_plugins.pca_vq.bottleneck import PcaVqBottleneck
from vtp_plugins.pca_vq.config import PcaVqConfig
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig

WIDTHS = {"deep": 16, "shallow": 4}


class FirstChannel(nn.Module):
    """Decodes a pixel to the first deep channel of its position; the others do nothing."""

    value_range = "imagenet"

    def forward(self, latent: Tensor) -> Tensor:
        return latent[:, :1].repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)


def tokenizer(bottleneck: nn.Module, decoder: nn.Module) -> Tokenizer:
    tables = {part: {"use": f"tiny.{part}"} for part in ("encoder", "bottleneck", "decoder")}
    config = ArtefactConfig(vtp_version="0", recipe="tiny", step=0, image_size=32, **tables)
    encoder = TinyNetworks(TINY_DIMS, 0).encoder
    return Tokenizer(encoder, bottleneck, decoder, {}, config=config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def held_out() -> EvaluationSet:
    return EvaluationSet(name="drawn", source=ShapesSource(17, size=32))


@pytest.fixture(scope="module")
def bottleneck(held_out: EvaluationSet) -> PcaVqBottleneck:
    """Codebooks of 8 and 16 codes, initialised from the set's own vectors."""
    table = PcaVqConfig(
        fusion={"kind": "concat", "layers": [0], "shallow": WIDTHS["shallow"]},
        quantizer={"codebook": {"codes": 8, "commitment": 0.0}},
        branches={"shallow": {"codebook": {"codes": 16}}},
        sample_tokens=16,
    )
    torch.manual_seed(0)
    found = PcaVqBottleneck(table, TINY_DIMS)
    (batch,) = (batch.to("cpu") for batch in held_out.batches(32, 17, 0, 1, frozenset({"image"})))
    tokens = TinyNetworks(TINY_DIMS, 0).encoder([batch.image[:, None]], [None], layers=(0,))[0]
    with torch.no_grad():
        found.calibrate(found.observe(Features(crops={"global": tokens})))
    return found


def codes_of(model: Tokenizer, held_out: EvaluationSet) -> Tensor:
    (batch,) = (batch.to("cpu") for batch in held_out.batches(32, 17, 0, 1, frozenset({"image"})))
    indices = model.encode(batch.image).indices
    assert indices is not None
    return indices


def test_both_keep_the_rules_of_evaluators(bottleneck: PcaVqBottleneck) -> None:
    model = tokenizer(bottleneck, TinyDecoder(replace(TINY_DIMS, channels=20)))
    check_evaluator(Codebook, CodebookConfig(), model=model)
    check_evaluator(Branches, BranchesConfig(), model=model)


def test_codebooks_are_measured_over_the_whole_set(
    bottleneck: PcaVqBottleneck, held_out: EvaluationSet
) -> None:
    model = tokenizer(bottleneck, FirstChannel())
    results = evaluate(model, {"codebook": Codebook(CodebookConfig())}, held_out, rows=4)
    codes = codes_of(model, held_out).numpy()
    for number, (name, size) in enumerate({"deep": 8, "shallow": 16}.items()):
        _, counts = np.unique(codes[:, number], return_counts=True)
        p = counts / counts.sum()
        entropy = float(-(p * np.log2(p)).sum())
        usage, perplexity = results[f"usage_{name}"], results[f"perplexity_{name}"]
        assert usage["value"] == pytest.approx(len(counts) / size)
        assert usage["also"]["vectors"] == 17 * 16
        assert usage["also"]["of an even draw"] == pytest.approx(1 - (1 - 1 / size) ** (17 * 16))
        assert perplexity["value"] == pytest.approx(2**entropy)
        assert perplexity["also"]["entropy, bits"] == pytest.approx(entropy)
        assert perplexity["also"]["bits of a code"] == math.log2(size)
        assert (usage["baseline"], perplexity["baseline"]) == (pytest.approx(1 / size), pytest.approx(1))
        assert perplexity["verdict"] == "better" and usage["interval"] is not None


def test_the_error_of_a_perplexity_is_the_jackknifes(
    bottleneck: PcaVqBottleneck, held_out: EvaluationSet
) -> None:
    model = tokenizer(bottleneck, FirstChannel())
    entry = evaluate(model, {"codebook": Codebook(CodebookConfig())}, held_out)["perplexity_shallow"]
    codes = codes_of(model, held_out).numpy()[:, 1]
    part = np.array([zlib.crc32(f"shape-{i}".encode()) % 8 for i in range(17)])

    def perplexity(of: np.ndarray) -> float:
        p = np.bincount(of.ravel()) / of.size
        return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))

    without = np.array([perplexity(codes[part != number]) for number in np.unique(part)])
    student = t.ppf(0.975, len(without) - 1) / norm.ppf(0.975)
    assert entry["error"] == pytest.approx(((len(without) - 1) * without.var()) ** 0.5 * student, rel=1e-3)


def test_codebooks_without_branches_have_numbers(held_out: EvaluationSet) -> None:
    quantizer = {"kind": "product", "groups": 2, "each": {"kind": "fsq", "levels": [3, 3]}}
    torch.manual_seed(0)
    model = tokenizer(VqBottleneck(VqConfig(channels=4, quantizer=quantizer), TINY_DIMS), TinyDecoder())
    results = evaluate(model, {"codebook": Codebook(CodebookConfig())}, held_out)
    assert results.keys() == {"usage_0", "perplexity_0", "usage_1", "perplexity_1"}


def test_only_the_branch_that_the_decoder_reads_is_missed(
    bottleneck: PcaVqBottleneck, held_out: EvaluationSet
) -> None:
    results = evaluate(
        tokenizer(bottleneck, FirstChannel()), {"branches": Branches(BranchesConfig())}, held_out
    )
    lost = {name: results[f"psnr_without_{name}"]["also"]["lost, dB"] for name in WIDTHS}
    assert lost["shallow"] == 0
    assert abs(lost["deep"]) > 0.01


def test_a_latent_without_branches_has_none_to_replace(held_out: EvaluationSet) -> None:
    reason = why_not(Branches(BranchesConfig()), tiny_tokenizer(), held_out, None)
    assert reason == "the tokenizer has no branches"
