"""`dino_probe`: its formula against a plain loop, its optimum against scikit-learn, selection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from tests.agreement import Agreement
from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.batch import Batch
from vtp_core.errors import NumericError, UsageError
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.named_protocol import Preparation
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.parameters import Dims
from vtp_core.testing import check_evaluator
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_dino_probe.config import DinoProbeConfig
from vtp_plugins.evaluate_dino_probe.evaluator import DinoProbe
from vtp_plugins.evaluate_dino_probe.features import last_blocks
from vtp_plugins.evaluate_dino_probe.metric import Heads, batches, steps_of, train
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.encoder import VitEncoder

DOUBLE = torch.zeros(0, dtype=torch.float64)
QUICK = {"blocks": (1, 2), "batch": 8, "epochs": 4, "rates": (1e-3, 0.1, 3.0)}


def blobs(n: int, width: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (n,), generator=g)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return centres[label] + 1.5 * torch.randn(n, width, generator=g, dtype=torch.float64), label


def test_every_head_is_what_sgd_gives_it_alone() -> None:
    """A plain loop over autograd, torch's SGD and its cosine schedule, one head at a time."""
    x, label = blobs(37, 6, 3, seed=0)
    widths, rates, batch, epochs = (4, 6), (0.05, 2.0), 10, 3
    heads = Heads(widths, rates, 3, seed=1, like=DOUBLE)
    initial = [weight.clone() for weight in heads.weights]
    assert abs(float(torch.cat([w.flatten() for w in initial]).std()) - 0.01) < 0.003
    steps = steps_of(37, epochs=epochs, batch=batch)
    passes = list(train(heads, x, label, torch.arange(37), steps=steps, batch=batch, every=37, seed=5))
    assert (len(passes), steps) == (3, 12)
    chosen = list(batches(37, batch=batch, steps=steps, seed=5))
    for i, width in enumerate(widths):
        for j, rate in enumerate(rates):
            weight = initial[i][j].clone().requires_grad_()
            bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
            solver = torch.optim.SGD([weight, bias], lr=rate * batch / 256, momentum=0.9, weight_decay=0)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps, eta_min=0)
            for rows in chosen:
                solver.zero_grad()
                F.cross_entropy(x[rows, -width:] @ weight.T + bias, label[rows]).backward()
                solver.step()
                schedule.step()
            torch.testing.assert_close(heads.weights[i][j], weight.detach(), atol=1e-12, rtol=1e-10)
            torch.testing.assert_close(heads.biases[i][j, 0], bias.detach(), atol=1e-12, rtol=1e-10)
            moved = (weight.detach() - initial[i][j]).abs().max()
            assert moved > 1e-3


@pytest.mark.agrees("DINO probe: loss at the optimum, classes", "scikit-learn", 1e-6)
def test_the_optimum_is_scikit_learns(agreement: Agreement) -> None:
    """Without a penalty, on classes that overlap, the loss has one minimum; whole batches reach it."""
    x, label = blobs(60, 4, 3, seed=2)
    heads = Heads((4,), (4.0,), 3, seed=0, like=DOUBLE)
    for _ in train(heads, x, label, torch.arange(60), steps=1500, batch=60, every=60, seed=0):
        pass
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(x, label)
    answers = heads.answers(x, label)
    expected = -theirs.predict_log_proba(x)[np.arange(60), label].mean()
    agreement(answers.loss[0], expected)
    agreement(answers.predicted[0], theirs.predict(x))


def test_batches_are_full_and_cover_every_pass() -> None:
    chosen = torch.cat(list(batches(7, batch=5, steps=steps_of(7, epochs=5, batch=5), seed=0)))
    assert len(chosen) == 35
    assert all(sorted(part.tolist()) == list(range(7)) for part in chosen.split(7))
    assert not torch.equal(chosen[:7], chosen[7:14])


@pytest.mark.parametrize(
    ("images", "batch"), [(30, 16), (2000, 16), (5000, 40), (50_000, 400), (128_000, 1024), (1_281_167, 1024)]
)
def test_the_batch_of_small_sets(images: int, batch: int) -> None:
    assert DinoProbeConfig().batch_of(images) == batch
    assert DinoProbeConfig(batch=7).batch_of(images) == 7


def vit_tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    encoder = VitEncoder(VitEncoderConfig(patch=8, width=16, depth=5, heads=2))
    dims = Dims(width=16, patch=8, depth=5, has_cls=True, channels=4, value_range="imagenet")
    return Tokenizer(encoder, LinearBottleneck(LinearConfig(channels=4), dims), None).eval()


@torch.no_grad()
def test_the_vectors_are_normed_class_tokens_and_the_mean_patch_token() -> None:
    """Against what the blocks return, seen by hooks."""
    model = vit_tokenizer()
    outputs: list[torch.Tensor] = []
    for block in model.encoder.blocks():
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out.view(3, 7, 16)))
    image = torch.randn(3, 1, 3, 16, 24)
    seen = Observation(model, Batch(crops={"global": image}, keys=("a", "b", "c"), rows=3), "train")
    four, one = last_blocks(seen, 4), last_blocks(seen, 1)
    normed = [model.encoder.norm(out) for out in outputs[:5]]
    expected = [*(tokens[:, 0] for tokens in normed[1:]), normed[4][:, 1:].mean(1)]
    torch.testing.assert_close(four, torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one, four[:, -32:], atol=1e-5, rtol=1e-5)
    assert four.shape == (3, 5 * 16)
    rounded = last_blocks(Observation(model, seen.batch, "train", Preparation(encode="bfloat16")), 4)
    assert rounded.dtype == torch.float32 and 1e-5 < (rounded - four).abs().max() < 0.2


def sets(train: int = 120, held_out: int = 60) -> tuple[ArraySet, ArraySet]:
    return drawn_set("val", held_out, 1, size=32), drawn_set("train", train, 0, size=32)


def measured(held_out: ArraySet, data: ArraySet, **keys: object) -> dict[str, object]:
    evaluator = DinoProbe(DinoProbeConfig.model_validate({**QUICK, **keys}))
    (entry,) = evaluate(tiny_tokenizer(), {"d": evaluator}, held_out, data).values()
    return entry


def test_colours_are_read_and_the_number_is_complete() -> None:
    entry = measured(*sets())
    assert entry["value"] > 0.9 and entry["verdict"] is not None
    assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]
    assert set(entry["baselines"]) == {"raw pixels", "largest class"}
    assert entry["also"]["blocks"] in (1, 2) and entry["also"]["rate"] in QUICK["rates"]
    assert entry["also"]["best_on_held_out"] >= entry["value"]
    assert any("steps only" in note for note in entry["notes"])
    assert "head selected on a tenth of the training set" in entry["protocol"]


def test_the_held_out_set_selects_nothing() -> None:
    """Other held-out labels change the number, and not which head is measured."""
    held_out, data = sets()
    rng = np.random.default_rng(0)
    other = replace(held_out.source, labels=tuple(rng.permutation(held_out.source.labels).tolist()))
    first, second = (
        measured(ArraySet(name="val", source=source), data) for source in (held_out.source, other)
    )
    for key in ("blocks", "rate", "selected_at", "raw_pixels_rate"):
        assert first["also"][key] == second["also"][key]
    assert second["value"] < first["value"]


def noise(name: str, count: int, seed: int) -> EvaluationSet:
    """Images with labels that mean nothing."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 40, 48, 3), dtype=np.uint8), rng.integers(0, 3, count)
    source = ArraySource(images=images, labels=tuple(labels.tolist()), classes=("a", "b", "c"))
    return EvaluationSet(name=name, source=source)


DEEP = Dims(width=16, patch=32, depth=4, has_cls=True, channels=4, value_range="imagenet")


def test_the_published_protocol_selects_on_the_held_out_set_and_says_so() -> None:
    """The best of many heads and epochs is above an honest choice, though there is nothing to learn."""
    tables = {
        "honest": DinoProbeConfig(),
        "published": DinoProbeConfig(protocol="vtp-2512", force=True, views=2),
    }
    evaluators = {name: DinoProbe(table) for name, table in tables.items()}
    model = tiny_tokenizer(DEEP, size=256)
    results = evaluate(model, evaluators, noise("val", 20, 0), noise("train", 30, 1))
    legacy = "dino_probe@vtp-2512-selected-on-held-out-2-views-PARTIAL-20-of-50000-FITTED-ON-30-of-1281167"
    assert set(results) == {"dino_probe", legacy}
    entry = results[legacy]
    assert entry["value"] == entry["also"]["best_on_held_out"] == entry["also"]["selected_at"]
    assert entry["value"] > results["dino_probe"]["value"]
    protocol = str(entry["protocol"])
    assert "SELECTED ON THE HELD-OUT SET" in protocol and "held-out" in str(entry["title"])
    assert "shorter-side-crop-v1 of 256, training images by 2 random crops and flips each" in protocol
    assert "encoder in bfloat16 224 px; on val, all 20; fitted on train, all 30" in protocol
    assert any("flatters" in note for note in entry["notes"])
    assert any("trained for 19 steps" in note for note in entry["notes"])  # 10 epochs of 30, 16 at a time


def test_the_published_protocol_is_of_imagenet_at_256_pixels() -> None:
    table = DinoProbeConfig(protocol="vtp-2512")
    with pytest.raises(UsageError, match=r"vtp-2512-selected-on-held-out is measured on 50000 images"):
        evaluate(tiny_tokenizer(DEEP, size=256), {"d": DinoProbe(table)}, noise("v", 8, 0), noise("t", 8, 0))
    with pytest.raises(UsageError, match="is measured at 256 px"):
        evaluate(tiny_tokenizer(DEEP), {"d": DinoProbe(table)}, *sets(12, 12))


def test_order_ranks_and_batches_change_nothing() -> None:
    check_evaluator(DinoProbe, DinoProbeConfig(**QUICK), samples=12)


def test_heads_that_diverge_are_not_selected() -> None:
    held_out, data = sets(40, 20)
    with_wild = measured(held_out, data, rates=(0.1, 1e39))
    assert with_wild["also"]["rate"] == 0.1 and with_wild["value"] > 0.5
    with pytest.raises(NumericError, match="no head stayed finite; add smaller `rates`"):
        measured(held_out, data, rates=(1e39,))


def test_what_it_can_not_measure_is_one_line() -> None:
    held_out, data = sets(40, 20)
    with pytest.raises(UsageError, match=r"^evaluator d: the tokenizer has no class_tokens"):
        evaluate(toy_tokenizer(), {"d": DinoProbe(DinoProbeConfig())}, held_out, data)
    with pytest.raises(UsageError, match="`blocks` asks for the last 4 of an encoder's 2 blocks"):
        evaluate(tiny_tokenizer(), {"d": DinoProbe(DinoProbeConfig())}, held_out, data)
    with pytest.raises(ValidationError, match='protocol = "vtp-2512" fixes epochs'):
        DinoProbeConfig(protocol="vtp-2512", epochs=3)
    with pytest.raises(ValidationError, match='views is of protocol = "vtp-2512"'):
        DinoProbeConfig(views=3)
    model = tiny_tokenizer()
    with torch.no_grad():
        model.encoder.norm.bias.fill_(float("nan"))
    with pytest.raises(NumericError, match=r"norm\.bias"):
        evaluate(model, {"d": DinoProbe(DinoProbeConfig(**QUICK))}, held_out, data)
