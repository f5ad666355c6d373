"""The generated pass: samples by index, dealt over ranks, with and without data beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tests.core.evaluation.generates import GeneratedMean, GeneratedMeanConfig, Generator
from tests.core.evaluation_sets import drawn_set
from tests.core.run.tiny_run import RECIPE
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Score
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_core.features import Tally
from vtp_core.testing.ranks import run_processes
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World

PLUGIN = Path(__file__).with_name("generates.py")


def generating() -> tuple[Tokenizer, Generator]:
    model, head = toy_tokenizer(text=False), Generator()
    model.exports["generate"] = head
    return model, head


def mean(samples: int = 7, seed: int = 0) -> GeneratedMean:
    return GeneratedMean(GeneratedMeanConfig(samples=samples, seed=seed))


def numbers(world: World, samples: int, rows: int) -> dict[str, Tensor]:
    entry = evaluate(generating()[0], {"g": mean(samples)}, rows=rows, world=world)["latent_mean"]
    also = entry["also"]
    assert isinstance(also, dict)
    found = {"value": entry["value"], **also}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


def test_the_numbers_are_those_of_the_samples_one_by_one() -> None:
    latents = [torch.randn(48, 4, 4, generator=torch.Generator().manual_seed(3000 + i)) / 2 for i in range(7)]
    results = evaluate(generating()[0], {"g": mean(seed=3)}, rows=4)
    assert results["latent_mean"]["value"] == pytest.approx(torch.stack(latents).double().sum().item())
    made = "7 generated samples, seed 3, sampler's settings not stated"
    expected = f"generated-mean-v1; 16 px; {made}; student weights"
    assert results["latent_mean"]["protocol"] == expected


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("size", "samples", "rows"), [(2, 7, 2), (3, 2, 64)])
def test_ranks_and_batches_change_no_number(size: int, samples: int, rows: int) -> None:
    """With 2 samples on 3 ranks, one rank generates nothing."""
    alone = numbers(World(), samples, 3)
    for rank in run_processes(size, numbers, samples, rows):
        assert rank.keys() == alone.keys()
        for name, number in alone.items():
            torch.testing.assert_close(rank[name], number, rtol=1e-12, atol=1e-12)


def test_evaluators_share_the_samples_that_both_ask_for() -> None:
    model, head = generating()
    evaluate(model, {"a": mean(), "b": mean(), "more": mean(9), "other": mean(seed=1)}, rows=4)
    assert head.asked == [[0, 1, 2, 3], [4, 5, 6], [0, 1, 2, 3], [4, 5, 6, 7], [8], [0, 1, 2, 3], [4, 5, 6]]


def test_without_the_capability_it_is_refused_by_name() -> None:
    assert why_not(mean(), toy_tokenizer(), None, None) == "the tokenizer has no generate"
    with pytest.raises(UsageError, match="evaluator g: the tokenizer has no generate"):
        evaluate(toy_tokenizer(), {"g": mean()})
    with pytest.raises(UsageError, match="generate: this tokenizer has decode"):
        toy_tokenizer(text=False).generate(torch.arange(2))


class Both(Evaluator):
    """Counts images of the held-out set and generated ones, as a distance between both sets would."""

    requires = frozenset({"generate"})
    protocol = "both-v1"
    generated = GeneratedMean.generated

    def begin(self, model, classes) -> None:
        self.counts = torch.zeros(2)

    def update(self, seen: Observation) -> None:
        assert seen.split == "held_out"
        self.counts[0] += len(seen.image)

    def update_generated(self, seen) -> None:
        assert seen.image.dtype == torch.uint8 and seen.image.shape[1:] == (3, 16, 16)
        self.counts[1] += len(seen.image)

    def state(self) -> Tally:
        return Tally(sums={"counts": self.counts})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        seen, made = state.sums["counts"].tolist()
        return {"seen": Score(value=seen), "made": Score(value=made)}


def test_one_evaluator_may_measure_held_out_and_generated_images() -> None:
    both = Both(GeneratedMeanConfig(samples=5))
    results = evaluate(generating()[0], {"b": both}, drawn_set("val", 3, 0), drawn_set("train", 4, 0), rows=2)
    assert results["seen"]["value"] == 3 and results["made"]["value"] == 5
    made = "5 generated samples, seed 0, sampler's settings not stated"
    expected = f"both-v1; centre-crop-v1 16 px; on val, all 3; {made}; student weights"
    assert results["seen"]["protocol"] == expected
    assert why_not(both, generating()[0], None, None) == "it needs held-out data"


def test_a_run_without_evaluation_data_measures_what_its_tokenizer_generates(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        RECIPE
        + '[objectives.generator]\nuse = "generates.generator"\n'
        + '[evaluators.made]\nuse = "generates.mean"\nsamples = 5\n'
        + '[evaluators.quality]\nuse = "reconstruction"\n'  # reads data, so it does not run
    )
    settings = ["-s", f"run.out={tmp_path / 'run'}", "-s", "run.steps=2", "-s", "evaluate.every=1"]
    result = CliRunner().invoke(main, ["run", str(recipe), "--plugin", str(PLUGIN), *settings])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert list(written) == ["latent_mean"]
    assert "5 generated samples" in written["latent_mean"]["protocol"]
    # The artefact generates the same; --source is not needed.
    table = '{ use = "generates.mean", samples = 5 }'
    arguments = ["eval", str(tmp_path / "run" / "tokenizer"), "--plugin", str(PLUGIN), "--evaluator", table]
    again = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "again.json")])
    assert again.exit_code == 0, again.output
    written["latent_mean"]["evaluator"] = "generates.mean"  # here without a table of a name
    assert json.loads((tmp_path / "again.json").read_text()) == written
    assert "left out: quality: it needs held-out data" in CliRunner().invoke(main, arguments[:4]).stderr
