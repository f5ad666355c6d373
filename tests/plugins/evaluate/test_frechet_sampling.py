"""gFID of samples whose sampler is set in the table or by `vtp eval -s`; what named protocols ask of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from click.testing import CliRunner, Result

from tests.core.toy_tokenizer import toy_tokenizer
from tests.plugins.evaluate.test_frechet_generated import HELD_OUT, SMALL, evaluator
from tests.plugins.generate.test_generate import made
from vtp_core.cli.main import main
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_core.evaluation.sampling import departures
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_frechet.config import FrechetGeneratedConfig
from vtp_plugins.evaluate_frechet.generated import FrechetGenerated
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_frechet.protocols import PROTOCOLS
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator

VTP = {"sampler": "euler", "steps": 249, "shift": 1 / 0.075, "guidance": 1.0, "balance": "uniform"}


def flowing(**sampling: Any) -> Tokenizer:
    """The toy tokenizer with a generator of two classes."""
    transformer = {"width": 16, "depth": 1, "heads": 2}
    table = {"use": "generation", "view": "main", "classes": 2, "transformer": transformer}
    torch.manual_seed(0)
    head = FlowGenerator(GenerationConfig(**table, sampling=sampling), 48).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        head.grid.fill_(4)
    model = toy_tokenizer(text=False)
    model.exports["generate"] = head
    return model


def test_settings_of_the_table_change_number_and_protocol() -> None:
    ways = ({"steps": 2}, {"steps": 8, "sampler": "heun", "guidance": 5.0, "balance": "uniform"})
    fast: dict[str, Any] = {"metrics": ("kernel",), "reference": "held_out", "floor": False, "samples": 20}
    model, found = flowing(), []
    for settings in ways:
        results = evaluate(model, {"g": evaluator(settings=settings, **fast)}, HELD_OUT)
        own = evaluate(flowing(**settings), {"g": evaluator(**fast)}, HELD_OUT)
        assert results == own  # as if the generator had been exported with them
        found.append(results["gkd_random"])
    assert found[0]["value"] != found[1]["value"]
    made = "20 generated samples, seed 0, sampled with "
    assert f"; {made}sampler=euler, steps=2, guidance=1, shift=1, balance=data; " in str(found[0]["protocol"])
    guided = "sampler=heun, steps=8, guidance=5, interval=[0, 1], shift=1, balance=uniform"
    assert f"; {made}{guided}; " in str(found[1]["protocol"])


@pytest.mark.parametrize("name", [name for name, one in PROTOCOLS.items() if one.generated])
def test_named_protocols_demand_what_is_known_of_their_sampling(name: str) -> None:
    named = PROTOCOLS[name]
    with torch.device("meta"):
        head = FlowGenerator(GenerationConfig(use="generation", view="main", classes=1000), 4)
    stated = head.describe((4, 2, 2))
    assert named.sampling.keys() <= {*stated, "rtol", "atol"}, "a key that no generator of ours states"
    told = " ".join((*named.conditions, *named.unknown))
    assert "steps" not in named.sampling or "steps" not in told
    for key in ("sampler", "guidance", "balance"):
        assert (key in named.sampling) != (key in told), key


def test_the_protocols_of_vtp() -> None:
    small, large = (PROTOCOLS[f"vtp-2512-{which}"].sampling for which in ("gfid10k-b", "gfid50k-xl"))
    assert departures(large, VTP) == {} and large == VTP
    assert departures(large, {**VTP, "steps": 25, "guidance": 2.0}) == {"steps": 25, "guidance": 2.0}
    assert small == {
        "sampler": "dopri5",
        "rtol": 1e-3,
        "atol": 1e-6,
        "guidance": 1.0,
        "balance": "uniform",
    }
    few = PROTOCOLS["dino-tok-2511-gfid"].sampling
    assert [departures(few, {"steps": steps, "guidance": 1.0}) for steps in (50, 100)] == [{}, {}]
    assert departures(few, {"steps": 250, "guidance": 1.0}) == {"steps": 250}


def test_a_guided_generator_is_refused_by_a_protocol_without_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = replace(
        PROTOCOLS["vtp-2512-gfid50k-xl"],
        name="toy-xl",
        image_size=16,
        images=20,
        extractor=SMALL,
        sampling={**VTP, "steps": 3},
    )
    monkeypatch.setitem(PROTOCOLS, "toy-xl", named)  # type: ignore[arg-type]
    width, file = PooledFeatures(SMALL, "random", None).width, tmp_path / "adm.npz"
    numpy.savez(file, mu=numpy.zeros(width), sigma=numpy.eye(width))
    table = {
        "protocol": "toy-xl",
        "weights": "random",
        "allow_fewer": True,
        "reference": str(file),
        "floor": False,
    }

    def gfid(**keys: Any) -> FrechetGenerated:
        return FrechetGenerated(FrechetGeneratedConfig.model_validate({**table, **keys}))

    guided = flowing(**{**VTP, "steps": 2, "guidance": 2.0})
    reason = str(why_not(gfid(), guided, None, None))
    assert reason.startswith(
        "toy-xl is sampled with steps=3, guidance=1, and this generator with steps=2, guidance=2; "
        "set settings = { steps = 3, guidance = 1.0 }"
    )
    for keys in ({"settings": {"steps": 3, "guidance": 1}}, {"force": True}):
        assert why_not(gfid(**keys), guided, None, None) is None


def test_vtp_eval_sets_the_sampler(tmp_path: Path) -> None:
    table = (
        f'{{ use = "frechet_generated", network = "{SMALL}", weights = "random", resize = 32, samples = 16, '
        'metrics = ["kernel"], reference = "held_out", floor = false }'
    )
    artefact, source = made().save(tmp_path / "tokenizer"), '{ use = "samples", split = "val" }'

    def run(folder: Path, *options: str, evaluator: str = table) -> Result:
        fixed = ["--source", source, "--limit", "16", "--json", "--evaluator", evaluator]
        return CliRunner().invoke(main, ["eval", str(folder), *fixed, *options])

    result = run(artefact, "-s", "steps=2", "-s", "guidance=3", "-s", "interval=[0, 0.5]")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout).values()
    stated = "sampled with sampler=euler, steps=2, guidance=3, interval=[0, 0.5], shift=1, balance=data"
    assert stated in entry["protocol"]
    adaptive = table.replace(" }", ', settings = { sampler = "dopri5" } }')
    result = run(artefact, "-s", "rtol=0.1", evaluator=adaptive)
    assert result.exit_code == 0, result.output
    assert "sampled with sampler=dopri5, guidance=1, rtol=0.1, atol=" in result.stdout
    coarse = table.replace(" }", ', settings = { sampler = "dopri5", rtol = 0.1, guidance = 1.0 } }')
    result = run(artefact, "-s", "sampler=euler", "-s", "steps=2", evaluator=coarse)
    assert result.exit_code == 0 and "sampled with sampler=euler, steps=2, guidance=1," in result.stdout
    line = "settings of frechet_generated: without rtol, which has no effect with sampler euler\n"
    assert result.stderr.count(line) == 1
    made(generator=False).save(tmp_path / "none")
    for wrong, message in (
        (run(artefact, "-s", "speed=3"), "error: generate: no setting 'speed'; there are sampler, steps"),
        (
            run(artefact, str(tmp_path / "none"), "-s", "speed=3", "--leaderboard"),
            "error: generate: no setting 'speed'; there are sampler, steps",
        ),
        (
            run(artefact, "-s", "guidance=1", evaluator=table.replace(" }", ", settings = { rtol = 0.1 } }")),
            "error: generate: rtol has no effect with sampler euler; leave it out",
        ),
        (run(artefact, "-s", "steps"), "error: --set steps: give KEY=VALUE"),
        (
            run(artefact, "-s", "steps=3", evaluator=adaptive),
            "error: generate: steps has no effect with sampler dopri5; leave it out",
        ),
        (run(tmp_path / "none", "-s", "steps=2"), "error: generate: this tokenizer has no generator"),
        (
            run(artefact, "-s", "steps=2", evaluator="reconstruction"),
            "error: --set steps: none of reconstruction measures generated samples",
        ),
    ):
        assert wrong.exit_code == 2 and wrong.stderr.startswith(message), wrong.output
        assert len(wrong.stderr.strip().splitlines()) == 1
