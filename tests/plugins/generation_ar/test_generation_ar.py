"""`generation_ar`: loss and gradients by plain formulas, causality, cache, samples, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.toy_tokenizer import toy_tokenizer
from tests.plugins.generation_ar.plain_ar import losses
from vtp_core.errors import DataError, NumericError, UsageError
from vtp_core.features import Tally
from vtp_core.testing import FakeStep, check_objective, drawn_batch
from vtp_core.testing.networks import TINY_DIMS
from vtp_plugins.generation_ar.config import CodeTransformerConfig, GenerationArConfig
from vtp_plugins.generation_ar.generator import ROWS, CodeGenerator
from vtp_plugins.generation_ar.network import CodeTransformer
from vtp_plugins.generation_ar.objective import GenerationAr
from vtp_plugins.generation_ar.sampling import draw_codes

DIMS = replace(TINY_DIMS, codebook_sizes=(5, 3))
SMALL = {"width": 16, "depth": 2, "heads": 2, "qk_norm": True}
TABLE: dict[str, Any] = {"use": "generation_ar", "view": "main", "classes": 10, "transformer": SMALL}


def randomise(module: torch.nn.Module) -> None:
    """Draws every parameter: at first the last layers are zero."""
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype), alpha=0.3)


def generator(grid: tuple[int, int] = (2, 3), *, classes: int = 4) -> CodeGenerator:
    """A generator of codes of (5, 3) codes, with drawn weights."""
    config = GenerationArConfig(**{**TABLE, "classes": classes})
    made = CodeGenerator(config, (5, 3)).eval()
    randomise(made)
    made.grid.copy_(torch.tensor(grid))
    return made


def sample(made: CodeGenerator, indices: list[int], seed: int = 3, **options: Any) -> Tensor:
    classes = options.pop("classes", None)
    shape = (7, *made.grid.tolist())
    settings = made.with_settings(options)
    return made.generate(torch.tensor(indices), seed, shape, classes=classes, settings=settings)


def test_loss_and_gradients_are_the_plain_formulas() -> None:
    objective = GenerationAr(GenerationArConfig(**TABLE, drop_class=0.4), DIMS).double()
    randomise(objective)
    batch = drawn_batch(objective.config.views()["main"], rows=4, size=16, dims=DIMS, dtype=torch.float64)
    step, again = (FakeStep({"main": batch}, objective, dims=DIMS) for _ in range(2))
    found = objective(step)
    step.backward(found)

    codes = again.tokenize("main").codes
    hidden = again.rand(4) < 0.4
    assert codes is not None and batch.label is not None and 0 < hidden.sum() < 4
    chosen = codes["global"][:, 0]
    assert chosen.shape == (4, 2, 2, 2) and len(chosen.unique()) > 2
    own = {
        name.removeprefix("generator.network."): value.detach().clone().requires_grad_()
        for name, value in objective.named_parameters()
    }
    expected = losses(own, chosen, torch.where(hidden, 10, batch.label), heads=2)
    expected.mean().backward()

    assert found.terms["nll"].item() == pytest.approx(expected.mean().item(), rel=1e-10)
    each = [found.report[f"codebook_{q}"].item() for q in range(2)]
    assert each == pytest.approx(expected.mean((0, 2, 3)).tolist(), rel=1e-10)
    for name, parameter in objective.named_parameters():
        same = own[name.removeprefix("generator.network.")].grad
        assert same is not None and parameter.grad is not None
        torch.testing.assert_close(parameter.grad, same, rtol=1e-7, atol=1e-10, msg=name)


def test_an_untrained_network_knows_nothing() -> None:
    network = CodeTransformer(CodeTransformerConfig(**SMALL), (5, 3))
    found = network(torch.zeros(2, 2, 2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    expected = torch.tensor([math.log(5), math.log(3)]).view(1, 2, 1, 1).expand_as(found)
    torch.testing.assert_close(found, expected)


def test_nothing_depends_on_later_codes() -> None:
    network = generator().network.double()
    codes = torch.stack([torch.randint(size, (1, 2, 3)) for size in (5, 3)], 1)
    label = torch.tensor([1])
    before = network(codes, label).flatten(2)
    for n in range(6):
        for q, size in enumerate((5, 3)):
            changed = codes.clone()
            changed.flatten(2)[0, q, n] += 1
            changed[:, q] %= size
            after = network(changed, label).flatten(2)
            # In order: all codes of earlier positions, then those of earlier codebooks at this one.
            order, place = 2 * torch.arange(6)[None] + torch.arange(2)[:, None], 2 * n + q
            assert torch.equal(after[0][order < place], before[0][order < place])
            assert (after[0][order > place] != before[0][order > place]).all()


def test_the_cache_gives_what_the_whole_sequence_gives() -> None:
    network = generator().network.double()
    codes = torch.stack([torch.randint(size, (3, 2, 3)) for size in (5, 3)], 1)
    label = torch.tensor([0, 4, 2])
    decoding, found = network.start(3, (2, 3), label), []
    for n in range(6):
        output, here = decoding.output(), codes.flatten(2)[:, :, n].unbind(1)
        for q, head in enumerate(network.head):
            logits = head(output, here[:q])
            found.append(logits.logsumexp(1) - logits.gather(1, here[q][:, None])[:, 0])
        decoding.add(here)
    expected = network(codes, label).flatten(2).transpose(1, 2).flatten(1)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-10, atol=1e-12)


def test_codes_are_drawn_by_their_probabilities() -> None:
    count = 10_000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    shares = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    logits = shares.log().expand(count, 4) + 7

    def counted(**options: Any) -> Tensor:
        return draw_codes(logits, numbers, **options).bincount(minlength=4) / count

    torch.testing.assert_close(counted().double(), shares, atol=2e-4, rtol=0)
    sharper = shares**2 / (shares**2).sum()
    torch.testing.assert_close(counted(temperature=0.5).double(), sharper, atol=2e-4, rtol=0)
    kept = torch.tensor([0.625, 0, 0, 0.375], dtype=torch.float64)
    torch.testing.assert_close(counted(top_k=2).double(), kept, atol=2e-4, rtol=0)
    assert counted(top_k=1).tolist() == [1, 0, 0, 0]
    edge = torch.tensor([0.0, 1 - 2.0**-24], dtype=torch.float64)
    assert draw_codes(logits[:2], edge).tolist() == [0, 3]
    assert draw_codes(logits[:2] * torch.nan, edge).max() <= 3


def test_logits_that_are_not_finite_are_an_error_and_no_rows_are_none() -> None:
    made = generator()
    empty = made.generate(torch.arange(0), 0, (2, 2, 3))
    assert empty.shape == (0, 2, 2, 3) and empty.dtype == torch.int64
    with pytest.raises(NumericError, match="logits of codes are not finite"):
        sample(made, [0, 1], guidance=1e308)


def test_samples_depend_on_seed_and_index_alone() -> None:
    made = generator()
    whole = sample(made, list(range(ROWS + 3)))
    assert whole.shape == (ROWS + 3, 2, 2, 3) and whole.dtype == torch.int64
    assert whole[:, 0].max() <= 4 and whole[:, 1].max() <= 2
    assert torch.equal(sample(made, [ROWS + 2, 5]), whole[[ROWS + 2, 5]])
    assert not torch.equal(sample(made, [0, 1, 2], seed=4), whole[:3])
    assert len({tuple(row.flatten().tolist()) for row in whole}) > ROWS


def test_guidance_moves_from_no_class_to_the_class_and_beyond() -> None:
    made = generator()
    indices = list(range(8))
    first, second = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64)
    plain = sample(made, indices, classes=first)
    assert not torch.equal(plain, sample(made, indices, classes=second))
    none = sample(made, indices, classes=first, guidance=0.0)
    assert torch.equal(none, sample(made, indices, classes=second, guidance=0.0))
    torch.nn.init.zeros_(made.network.class_embed.weight)
    same = sample(made, indices, classes=first, guidance=3.0)
    assert torch.equal(same, sample(made, indices, classes=second))


def test_a_tokenizer_decodes_the_codes_of_its_generator() -> None:
    tokenizer = toy_tokenizer(codes=True)
    assert tokenizer.config is not None
    side = tokenizer.config.image_size // tokenizer.encoder.patch
    made = CodeGenerator(GenerationArConfig(**{**TABLE, "classes": 4}), (2,)).eval()
    randomise(made)
    made.grid.fill_(side)
    tokenizer.exports["generate"] = made
    indices, classes = torch.arange(3), torch.tensor([0, 3, 3])
    latent = tokenizer.generate(indices, 5, classes=classes, settings={"top_k": 1})
    codes = made.generate(
        indices, 5, (48, side, side), classes=classes, settings=made.with_settings({"top_k": 1})
    )
    assert torch.equal(latent, tokenizer.bottleneck.decode_codes(codes))
    foreign = CodeGenerator(GenerationArConfig(**{**TABLE, "classes": 0}), (2, 2)).eval()
    foreign.grid.fill_(side)
    tokenizer.exports["generate"] = foreign
    with pytest.raises(UsageError, match=r"generate: expected codes \(B, 1, h, w\)"):
        tokenizer.generate(indices)


def test_what_does_not_fit_is_refused() -> None:
    config = GenerationArConfig(**TABLE)
    with pytest.raises(
        UsageError, match="latent is continuous and has no codes; use the objective generation"
    ):
        GenerationAr(config, TINY_DIMS)
    with pytest.raises(UsageError, match="has no grid of codes"):
        CodeGenerator(config, (5,)).generate(torch.arange(1), 0, (4, 2, 2))
    made = generator(classes=0)
    with pytest.raises(UsageError, match="codes of 2 x 3 positions, asked for 3 x 2"):
        made.generate(torch.arange(1), 0, (4, 3, 2))
    with pytest.raises(UsageError, match="guidance needs classes"):
        sample(made, [0], guidance=2.0)
    objective = GenerationAr(config, DIMS)
    objective.generator.grid.fill_(7)
    batch = drawn_batch(config.views()["main"], rows=2, size=16, dims=DIMS)
    with pytest.raises(DataError, match="trained on 7 x 7 codes, and view main has 2 x 2"):
        objective(FakeStep({"main": batch}, objective, dims=DIMS))
    with pytest.raises(ValueError, match="width 20 / heads 2 must be a multiple of 4"):
        CodeTransformerConfig(width=20, heads=2)


def test_grid_and_classes_are_measured() -> None:
    objective = GenerationAr(GenerationArConfig(**TABLE), DIMS)
    batch = drawn_batch(objective.config.views()["main"], rows=4, size=16, dims=DIMS)
    batch = replace(batch, label=torch.tensor([3, 3, -1, 9]))
    tally = objective.observe(FakeStep({"main": batch}, objective, dims=DIMS))
    objective.calibrate(Tally(sums={name: 2 * value for name, value in tally.sums.items()}))
    assert objective.generator.grid.tolist() == [2, 2]
    assert objective.generator.frequency.nonzero().flatten().tolist() == [3, 9]
    assert objective.generator.frequency[3] == pytest.approx(2 / 3)


def test_classes_without_a_labelled_row_are_refused() -> None:
    objective = GenerationAr(GenerationArConfig(**TABLE), DIMS)
    batch = drawn_batch(objective.config.views()["main"], rows=4, size=16, dims=DIMS)
    batch = replace(batch, label=torch.full((4,), -1))
    tally = objective.observe(FakeStep({"main": batch}, objective, dims=DIMS))
    with pytest.raises(DataError, match="view main: no row has a label; set classes = 0"):
        objective.calibrate(tally)


def test_dependent_codes_are_learnt() -> None:
    """The second code is the first one plus the class, and the second position repeats the first."""
    draw = torch.Generator().manual_seed(0)

    def rows(count: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(2, (count,), generator=draw)
        first = torch.randint(3, (count,), generator=draw)
        codes = torch.stack([first, (first + label) % 3], 1)
        return codes[:, :, None, None].expand(-1, -1, 1, 2), label

    torch.manual_seed(0)
    config = GenerationArConfig(
        **{**TABLE, "classes": 2, "transformer": {"width": 32, "depth": 1, "heads": 2}}
    )
    made = CodeGenerator(config, (3, 3))
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        made(*rows(64)).mean().backward()
        optimizer.step()
    made.grid.copy_(torch.tensor([1, 2]))
    classes = torch.arange(320) % 2
    codes = sample(made, list(range(320)), classes=classes)
    assert ((codes[:, 1] == (codes[:, 0] + classes[:, None, None]) % 3).double().mean()) > 0.97
    assert (codes[:, :, 0, 0] == codes[:, :, 0, 1]).double().mean() > 0.97
    # A third each, within three standard errors.
    shares = codes[:, 0, 0, 0].bincount(minlength=3) / 320
    assert (shares - 1 / 3).abs().max() < 3 * math.sqrt(2 / 9 / 320)


@pytest.mark.slow
def test_conformance() -> None:
    small = {"width": 8, "depth": 1, "heads": 2}
    check_objective(GenerationAr, GenerationArConfig(**{**TABLE, "transformer": small}), dims=DIMS)
