"""Settings of generators in protocols: stated with numbers, set by tables, demanded by named protocols."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor

import vtp_core as vtp
from tests.core.evaluation.generates import GeneratedMean, GeneratedMeanConfig
from tests.core.evaluation.generates import Generator as Bare
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.evaluation.named_protocol import NamedProtocol
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.evaluation.sampling import departures, sampling_mark, sampling_problem, sampling_text
from vtp_core.leaderboard.board import Board
from vtp_core.leaderboard.row import Row
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.generated import changed_settings, sampling_of


class Scaling(vtp.Table):
    steps: Annotated[int, Field(gt=0)] = 4
    """A factor."""
    guidance: float = 1.0
    """Another."""
    noise: Literal["normal", "none"] = "normal"
    """What is scaled."""


class Scaled(vtp.Generator):
    """Noise times its settings; it states all of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = Scaling(**settings)
        self.calls = 0

    def generate(
        self,
        indices: Tensor,
        seed: int,
        shape: tuple[int, int, int],
        *,
        classes: Tensor | None = None,
        settings: vtp.Table | None = None,
    ) -> Tensor:
        self.calls += 1
        chosen = settings or self.settings
        assert isinstance(chosen, Scaling)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(int(i))) for i in indices]
        scale = chosen.steps * chosen.guidance if chosen.noise == "normal" else 0
        return torch.stack(noise) * scale


NAMED = NamedProtocol(
    name="toy-1",
    about="A toy.",
    image_size=16,
    images=7,
    reference="nothing",
    source="ours",
    sampling={"steps": (4, 8), "guidance": 1.0, "noise": "normal"},
)


def generating(head: torch.nn.Module | None = None) -> Tokenizer:
    model = toy_tokenizer(text=False)
    model.exports["generate"] = Scaled() if head is None else head
    return model


class Mean(GeneratedMean):
    """The toy evaluator with settings of the generator, and a named protocol."""

    def __init__(self, *, named: NamedProtocol | None = None, force: bool = False, **settings: Any) -> None:
        super().__init__(GeneratedMeanConfig())
        self.settings, self.follows, self.forced = settings, named, force

    @property
    def generated(self) -> vtp.GeneratedPass:
        return vtp.GeneratedPass(samples=7, settings=self.settings)


def entry(results: Results) -> dict[str, object]:
    (only,) = results.values()
    return only


def test_settings_in_effect_are_in_the_protocol_of_every_number() -> None:
    few, many = (entry(evaluate(generating(), {"g": Mean(**s)})) for s in ({}, {"steps": 8, "guidance": 5.0}))
    start = "generated-mean-v1; 16 px; 7 generated samples, seed 0, sampled with "
    assert few["protocol"] == f"{start}steps=4, guidance=1, noise=normal; student weights"
    assert many["protocol"] == f"{start}steps=8, guidance=5, noise=normal; student weights"
    assert many["value"] == pytest.approx(10 * few["value"])  # type: ignore[operator]
    # Those of the exported head itself are stated alike.
    assert entry(evaluate(generating(Scaled(steps=8, guidance=5.0)), {"g": Mean()})) == many


def test_only_equal_settings_share_samples() -> None:
    head = Scaled()
    evaluators = {"a": Mean(steps=2), "b": Mean(steps=2), "c": Mean(steps=3), "d": Mean()}
    results = evaluate(generating(head), evaluators, rows=7)
    assert head.calls == 3 and len(results) == 4
    assert len({str(each["protocol"]) for each in results.values()}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": 3}, "no setting 'speed'; there are steps, guidance, noise"),
        ({"steps": 0}, "steps: Input should be greater than 0"),
        ({"noise": "loud"}, "noise: Input should be 'normal' or 'none'"),
    ],
)
def test_settings_are_checked_before_a_sample_is_made(settings: dict[str, object], message: str) -> None:
    head = Scaled()
    with pytest.raises(UsageError, match=f"evaluator g: generate: {message}") as caught:
        evaluate(generating(head), {"fine": Mean(), "g": Mean(**settings)})
    assert "\n" not in str(caught.value) and head.calls == 0


def test_a_generator_that_states_none_is_said_to() -> None:
    assert "seed 0, sampler's settings not stated;" in str(
        entry(evaluate(generating(Bare()), {"g": Mean()}))["protocol"]
    )
    assert "takes neither classes nor settings" in str(why_not(Mean(steps=2), generating(Bare()), None, None))
    with pytest.raises(UsageError, match="this tokenizer has no generator"):
        sampling_of(toy_tokenizer(), {})

    class Undeclared(Mean):
        requires = frozenset({"decode"})

    assert why_not(Undeclared(), toy_tokenizer(), None, None) == "the tokenizer has no generate"


def test_a_named_protocol_refuses_other_settings_and_says_how_to_set_them() -> None:
    guided = generating(Scaled(steps=25, guidance=2.0))
    reason = str(why_not(Mean(named=NAMED), guided, None, None))
    assert reason == (
        "toy-1 is sampled with steps=4 or 8, guidance=1, and this generator with steps=25, guidance=2; "
        "set settings = { steps = 4, guidance = 1.0 }, or -s steps=4 -s guidance=1 of vtp eval; "
        "force = true measures all the same and marks the number"
    )
    as_it_says = Mean(named=NAMED, steps=4, guidance=1.0)
    assert list(evaluate(guided, {"g": as_it_says})) == ["latent_mean@toy-1"]
    assert list(evaluate(generating(Scaled(steps=8)), {"g": Mean(named=NAMED)})) == ["latent_mean@toy-1"]
    forced = evaluate(guided, {"g": Mean(named=NAMED, force=True)})
    ((metric, found),) = forced.items()
    assert metric == "latent_mean@toy-1-SAMPLED-WITH-steps-25-guidance-2"
    assert str(found["protocol"]).startswith("toy-1-SAMPLED-WITH-steps-25-guidance-2: generated-mean-v1;")
    assert "SAMPLED-WITH" in str(found["title"])
    few = replace(NAMED, images=9)
    assert list(evaluate(guided, {"g": Mean(named=few, force=True)})) == [
        "latent_mean@toy-1-PARTIAL-7-of-9-SAMPLED-WITH-steps-25-guidance-2"
    ]


def test_advice_that_the_generator_can_not_follow_is_not_given() -> None:
    class Fixed(Scaled):
        """States no guidance, whatever it is set to."""

        def describe(self, shape: tuple[int, int, int], settings: vtp.Table | None = None) -> dict[str, Any]:
            stated = dict(super().describe(shape, settings))
            del stated["guidance"]
            return stated

    reason = str(why_not(Mean(named=NAMED), generating(Fixed(steps=25)), None, None))
    assert reason == (
        "toy-1 is sampled with steps=4 or 8, guidance=1, and this generator with steps=25, guidance=none; "
        "it has no guidance; force = true measures all the same and marks the number"
    )
    other = replace(NAMED, sampling={"speed": 3})
    assert str(why_not(Mean(named=other), generating(), None, None)) == (
        "toy-1 is sampled with speed=3, and this generator with speed=none; it can't be set so (generate: no "
        "setting 'speed'; there are steps, guidance, noise); force = true measures all the same and marks "
        "the number"
    )


def test_a_named_protocol_refuses_what_states_no_settings() -> None:
    bare = generating(Bare())
    assert "noise=normal, and this generator states no settings; force = true" in str(
        why_not(Mean(named=NAMED), bare, None, None)
    )
    assert list(evaluate(bare, {"g": Mean(named=NAMED, force=True)})) == [
        "latent_mean@toy-1-SAMPLING-NOT-STATED"
    ]


def test_numbers_of_other_settings_share_no_column_unmarked() -> None:
    rows = [
        Row(name=name, results=evaluate(generating(), {"g": Mean(**settings)}))
        for name, settings in {"a": {}, "b": {"guidance": 5.0}, "c": {}}.items()
    ]
    board = Board(rows)
    (column,) = board.columns
    assert [cell.mark for cell in column.cells] == [0, 1, 0]
    assert [cell.best for cell in column.cells] == [True, False, True]
    assert "guidance=5" in board.notes[0] and "guidance=1" in board.notes[0]


def test_settings_as_text_and_their_comparison() -> None:
    sampling = {"shift": 13.333333333333334, "interval": [0.1, 1.0], "top_k": None, "greedy": True}
    assert sampling_text(sampling) == (
        "sampled with shift=13.3333333333, interval=[0.1, 1], top_k=none, greedy=True"
    )
    assert sampling_text({}) == "the sampler has no settings"
    assert departures({"shift": 1 / 0.075}, sampling) == {}
    assert departures({"shift": 13.3, "steps": 50}, sampling) == {"shift": sampling["shift"], "steps": None}
    assert (
        departures({}, None) == {}
        and sampling_mark({}, None) == ""
        and sampling_problem("x", {}, None, lambda changes: changes) is None
    )
    assert sampling_mark({"steps": 50}, sampling) == "-SAMPLED-WITH-steps-none"


class Chosen(Scaled):
    """Reads the factors only of normal noise."""

    def unused(self, settings: vtp.Table) -> dict[str, str]:
        assert isinstance(settings, Scaling)
        return {} if settings.noise == "normal" else dict.fromkeys(("steps", "guidance"), "without noise")


def test_changes_drop_the_given_settings_that_they_leave_without_effect() -> None:
    model = generating(Chosen())
    none = {"noise": "none"}
    assert changed_settings(model, {"steps": 2}, {"guidance": 3.0}) == ({"steps": 2, "guidance": 3.0}, {})
    assert changed_settings(model, {"steps": 2}, none) == (none, {"steps": "without noise"})
    assert changed_settings(generating(), {"steps": 2}, none) == ({"steps": 2, **none}, {})
    refused: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({}, {**none, "steps": 3}),  # a change itself has no effect
        (none, {"steps": 3}),
        ({**none, "steps": 2}, none),  # the given settings contradict each other already
    )
    for given, changes in refused:
        with pytest.raises(UsageError, match="generate: steps has no effect without noise; leave"):
            changed_settings(model, given, changes)
    with pytest.raises(UsageError, match="takes neither classes nor settings"):
        changed_settings(generating(Bare()), {}, none)
    with pytest.raises(UsageError, match="has no generator"):
        changed_settings(toy_tokenizer(text=False), {}, none)
