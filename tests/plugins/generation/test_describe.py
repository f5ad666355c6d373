"""What generators state of their sampling: the settings that act on samples, and those alone."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from tests.plugins.generation_ar.test_generation_ar import generator as code_generator
from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator

SHAPE = (3, 2, 2)
COARSE = {"steps": 2, "rtol": 0.2, "atol": 0.2}
FLOW: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 3},
    {"rtol": 0.05},
    {"atol": 0.05},
    {"shift": 3.0},
    {"shift": 1.0},
    {"sampler": "heun"},
    {"sampler": "heun", "steps": 3, "rtol": 0.05},
    {"sampler": "dopri5"},
    {"sampler": "dopri5", "rtol": 0.05},
    {"sampler": "dopri5", "atol": 0.05},
    {"balance": "uniform"},
    {"interval": [0.0, 0.4]},
    {"guidance": 3.0},
    {"guidance": 3.0, "interval": [0.0, 0.4]},
)
CODES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 3.0},
    {"top_k": 1},
    {"balance": "uniform"},
    {"guidance": 3.0},
)


def flow(classes: int) -> FlowGenerator:
    """A generator with drawn weights, of latents of `SHAPE` and classes that are not equally frequent."""
    transformer = {"width": 16, "depth": 1, "heads": 2}
    table = {"use": "generation", "view": "main", "classes": classes, "transformer": transformer}
    made = FlowGenerator(GenerationConfig(**table, sampling=COARSE), SHAPE[0]).double().eval()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64), alpha=0.1)
        made.grid.copy_(torch.tensor(SHAPE[1:]))
        if classes:
            made.frequency.copy_(torch.linspace(0, 1, classes) / torch.linspace(0, 1, classes).sum())
    return made


def check(made: Generator, shape: tuple[int, int, int], options: tuple[dict[str, Any], ...]) -> None:
    """Two sets of settings make equal samples if, and only if, what is stated of them is equal."""
    found = []
    for changes in options:
        settings = type(made.settings).model_validate({**made.settings.model_dump(), **changes})
        sample = made.generate(torch.arange(4), 0, shape, settings=settings)
        found.append((changes, made.describe(shape, settings), sample))
    for (first, stated, sample), (second, other, samples) in combinations(found, 2):
        assert (stated == other) == torch.equal(sample, samples), (first, second)
    assert made.describe(shape) == found[0][1]


@pytest.mark.parametrize("classes", [0, 4])
def test_a_flow_states_what_acts_and_nothing_else(classes: int) -> None:
    check(flow(classes), SHAPE, tuple(o for o in FLOW if classes or "guidance" not in o))


def test_codes_are_drawn_as_stated() -> None:
    made = code_generator()
    made.frequency.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    check(made, (7, 2, 3), CODES)
    alone = code_generator(classes=0)
    assert alone.describe((7, 2, 3)) == {"temperature": 1.0, "top_k": "all"}


def test_a_shift_that_follows_the_size_of_the_latent_is_stated_as_a_number() -> None:
    with torch.device("meta"):  # as a run asks before step 0
        made = FlowGenerator(GenerationConfig(use="generation", view="main", classes=5), 64)
    expected = {"sampler": "euler", "steps": 50, "guidance": 1.0, "shift": 2.0, "balance": "data"}
    assert made.describe((64, 16, 16)) == expected
    assert list(made.describe((64, 16, 16))) == list(expected)
    adaptive = made.describe((64, 16, 16), made.with_settings({"sampler": "dopri5", "guidance": 2}))
    assert adaptive == {
        "sampler": "dopri5",
        "rtol": 1e-3,
        "atol": 1e-6,
        "guidance": 2.0,
        "interval": [0.0, 1.0],
        "balance": "data",
    }


@pytest.mark.parametrize("made", [flow(0), code_generator(classes=0)], ids=["flow", "codes"])
def test_guidance_without_classes_is_refused_before_a_sample_is_made(made: Generator) -> None:
    guided = made.settings.model_copy(update={"guidance": 2.0})
    with pytest.raises(UsageError, match="guidance needs classes"):
        made.describe((7, 2, 3), guided)
