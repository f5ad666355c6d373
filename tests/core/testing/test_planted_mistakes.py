"""Each rule of the framework broken once: `check_objective` names the mistake and how to mend it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from tests.core.testing.sound import CONFIG, CRITIC_CONFIG, Sound, SoundCritic
from vtp_core.config import ObjectiveConfig
from vtp_core.features import Losses, Tally
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.testing import ConformanceError, check_objective

Change = Callable[[Any, Any, Losses], Any]


def _planted(**methods: Callable[..., Any]) -> type[Objective]:
    """`Sound` with methods in the place of its own."""
    return type("Planted", (Sound,), methods)


def _after(change: Change, base: type[Objective] = Sound) -> type[Objective]:
    """An objective that changes something after its forward, or its losses."""

    class Planted(base):  # type: ignore[valid-type, misc]
        def forward(self, step: Any) -> Any:
            losses = super().forward(step)
            changed = change(self, step, losses)
            return changed if isinstance(changed, Losses) else losses

    return Planted


def _built(
    build: Callable[[Any], None], change: Change = lambda self, step, losses: losses
) -> type[Objective]:
    """An objective whose constructor does something more."""

    class Built(_after(change)):  # type: ignore[misc]
        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            build(self)

    return Built


def _term(name: str, make: Callable[[Tensor], Any]) -> type[Objective]:
    return _after(
        lambda self, step, losses: Losses(
            terms={**losses.terms, name: make(losses.terms[name])}, tally=losses.tally
        )
    )


def _add(make: Callable[[Any, Any], Tensor]) -> type[Objective]:
    return _after(
        lambda self, step, losses: Losses(
            terms={**losses.terms, "more": make(self, step)}, tally=losses.tally
        )
    )


def _tally(make: Callable[[Tally, int], Tally]) -> type[Objective]:
    return _planted(count=lambda self, step, first: make(Sound.count(self, step, first), len(first)))


def _gathering(change: Callable[[Tensor], Tensor], times: int) -> type[Objective]:
    """An objective that changes what its last `times` gathers return."""

    class Gathering(Sound):
        def forward(self, step: Any) -> Losses:
            inner, calls = step.gather, []

            def gather(x: Tensor) -> Tensor:
                calls.append(x)
                return change(inner(x)) if len(calls) > 2 - times else inner(x)

            step.gather = gather
            return super().forward(step)

    return Gathering


def _masked(reduce: Callable[[Any, Tensor, Tensor], Tensor]) -> type[Objective]:
    def masked(self: Any, step: Any, patches: Tensor) -> Tensor:
        error = (step.call(self.head, patches) * self.scale).square().mean(-1)
        return reduce(step, error, step.batch("main").masks.weight)

    return _planted(masked=masked)


def _no_grad_contrast(self: Any, step: Any, first: Tensor, second: Tensor) -> Tensor:
    with torch.no_grad():
        keys = step.gather(second)
    return step.mean((first @ keys.T).logsumexp(1))


def _early(self: Any, step: Any, losses: Losses) -> Losses:
    if not step.batch("main").masks.mask.any():
        return Losses(terms={"contrast": losses.terms["contrast"]}, tally=losses.tally)
    return losses


def _contiguous(self: Any, step: Any, first: Tensor, second: Tensor) -> Tensor:
    own = torch.arange(len(first)) + step.rank * len(first)
    return nn.functional.cross_entropy(first @ step.gather(second).T, own)


class _Centred(nn.Linear):
    """Normalises over the rows that it sees together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean((0, 1), keepdim=True))


class _Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Opaquely(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return _Opaque(super().forward(x))


def _lossy(x: Tensor) -> Tensor:
    return ((x + 1000) - 1000).abs().float()


def _raise(self: Any, tally: Tally, index: int) -> None:
    raise RuntimeError("boom")


RANKS = r"2 ranks \(on rank 0\) give another {} than one rank with all rows"
MISTAKES: dict[str, tuple[type[Objective], str]] = {
    # rule 2: forward changes no state
    "buffer": (_after(lambda self, step, losses: self.mean.add_(1)), r"forward\(\) changed 'mean'"),
    "parameter": (_after(lambda self, step, losses: self.scale.data.mul_(2)), r"forward\(\) changed 'scale'"),
    "counter": (
        _after(lambda self, step, losses: setattr(self, "calls", getattr(self, "calls", 0) + 1)),
        "changes the attribute 'calls'.*keep state in buffers",
    ),
    "kept losses": (_after(lambda self, step, losses: setattr(self, "last", losses)), "attribute 'last'"),
    "queue": (
        _built(
            lambda self: setattr(self, "queue", []),
            lambda self, step, losses: self.queue.append(losses.total().detach()),
        ),
        "attribute 'queue'",
    ),
    "state in after_step": (
        _planted(after_step=lambda self, tally, index: setattr(self, "seen", index)),
        "attribute 'seen'",
    ),
    "unsaved": (
        _built(
            lambda self: setattr(self, "offset", torch.randn(1).item()),
            lambda self, step, losses: Losses(
                terms={name: term + self.offset for name, term in losses.terms.items()}, tally=losses.tally
            ),
        ),
        "another loss after a state_dict round trip",
    ),
    "after_step that raises": (_planted(after_step=_raise), "a joint step raised RuntimeError: boom"),
    "no tally": (_planted(count=lambda self, step, first: None), r"after_step\(\) is never called"),
    "tally to nobody": (
        _planted(after_step=Objective.after_step),
        r"returns a tally, but there is no after_step\(\)",
    ),
    "tally of means": (
        _tally(lambda tally, rows: Tally(sums={"sum": tally.sums["sum"] / rows, "count": torch.ones(1)})),
        RANKS.format(r"tally sums\['sum'\]") + ".*sums over rows, not means",
    ),
    # rules 4 and 14: random numbers by global row, from the step
    "torch.randn": (
        _add(lambda self, step: torch.randn(()) * step.encode("main").cls.mean()),
        r"changes the state of torch's global generator: draw from step\.randn",
    ),
    "manual_seed": (_after(lambda self, step, losses: torch.manual_seed(0)), "torch's global gen"),
    "numpy.random": (_after(lambda self, step, losses: numpy.random.rand()), "NumPy's global"),
    "random": (_after(lambda self, step, losses: random.random()), "Python's global generator"),
    "own generator": (
        _built(
            lambda self: setattr(self, "rng", torch.Generator()),
            lambda self, step, losses: torch.rand(1, generator=self.rng),
        ),
        "attribute 'rng'",
    ),
    "after_step draws": (
        _planted(after_step=lambda self, tally, index: self.mean.copy_(torch.randn(16))),
        "torch's global generator",
    ),
    "local rows": (
        _planted(
            noise=lambda self, step, first: step.mean(
                torch.randn(len(first), generator=step.rng()).to(first) * first.mean(1)
            )
        ),
        RANKS.format("term planted/noise") + ".*step.randn and step.rand",
    ),
    # rule 1: the mean over ranks is the global loss
    "gather without gradient": (_gathering(Tensor.detach, 2), "no gradient came back to what step.gather"),
    "gather without gradient in one direction": (_gathering(Tensor.detach, 1), "no gradient came back"),
    "gather under no_grad": (_planted(contrast=_no_grad_contrast), "no gradient came back.*no_grad"),
    "own rows alone": (
        _planted(
            contrast=lambda self, step, first, second: nn.functional.cross_entropy(
                first @ second.T, torch.arange(len(first))
            )
        ),
        RANKS.format("term planted/contrast"),
    ),
    "contiguous rows": (_planted(contrast=_contiguous), RANKS.format("term planted/contrast")),
    "plain mean over masked patches": (
        _masked(lambda step, error, weight: error[weight > 0].sum() / (weight > 0).sum().clamp_min(1)),
        RANKS.format("term planted/masked") + ".*use step.mean for means",
    ),
    "empty mask": (
        _masked(lambda step, error, weight: (error * weight).sum() / weight.sum()),
        r"term 'masked' of forward\(\) is not a finite scalar: nan \(in a step without masked patches",
    ),
    "early return": (
        _after(_early),
        r"no gradient reaches .*head\.weight.*an empty mask counts as zeros, not as an early return",
    ),
    # shared tensors
    "in place": (
        _after(lambda self, step, losses: step.encode("main").cls.detach().mul_(0.5)),
        r"writes into what step\.encode\('main'\) returned",
    ),
    "in place through .data": (
        _after(lambda self, step, losses: step.encode("main").patches.data.zero_()),
        r"step\.encode\('main'\) returned, which others read: clone it",
    ),
    "teacher in place": (
        _after(lambda self, step, losses: step.teacher.encode("main").patches.zero_()),
        r"step\.encode\('main'\)",
    ),
    "pixels in place": (
        _after(lambda self, step, losses: step.batch("main").image.add_(1)),
        r"step\.batch\('main'\)",
    ),
    "masks in place": (
        _after(lambda self, step, losses: step.batch("main").masks.weight.mul_(2)),
        r"step\.batch\('main'\)",
    ),
    # own modules run through step.call, each row on its own
    "module run directly": (
        _add(lambda self, step: step.mean(self.head(step.encode("main").cls))),
        r"'head\.(weight|bias)' is trained by a call outside step\.call: run its module by step\.call",
    ),
    "weights used directly": (
        _add(lambda self, step: step.mean(step.encode("main").cls @ self.head.weight.T)),
        r"'head\.weight' is trained by a call outside step\.call: run its module by step\.call",
    ),
    "module over rows": (
        _built(lambda self: setattr(self, "head", _Centred(16, 3))),
        r"row chunks of 1 give another term planted/masked.*treats each row on its own",
    ),
    "opaque output": (
        _built(
            lambda self: setattr(self, "net", _Opaquely(16, 1)),
            lambda self, step, losses: step.call(self.net, step.encode("main").cls),
        ),
        r"step\.call: _Opaquely returned _Opaque.*return tensors",
    ),
    # parameters
    "unused": (
        _built(lambda self: setattr(self, "spare", nn.Linear(3, 3))),
        r"no gradient reaches objectives\.planted\.spare\.weight",
    ),
    "0-D": (
        _built(lambda self: setattr(self, "gain", nn.Parameter(torch.ones(())))),
        r"objectives\.planted\.gain is a 0-D parameter",
    ),
    # losses
    "not finite": (
        _term("noise", lambda term: term / 0),
        "term 'noise' of forward\\(\\) is not a finite scalar",
    ),
    "not a scalar": (_term("noise", lambda term: term.expand(2)), "term 'noise' .*not a finite scalar"),
    "different terms": (
        _after(
            lambda self, step, losses: losses if step.rank == 0 else Losses(terms={"noise": losses.total()})
        ),
        "ranks return different terms, rank [01]: .*every rank returns the same",
    ),
    "infinite gradient": (
        _add(lambda self, step: (step.encode("main").cls.sum() * 0).sqrt()),
        "gradient of encoder has norm nan",
    ),
    "no term": (_after(lambda self, step, losses: Losses(terms={})), r"forward\(\) returned no term"),
    "no network": (
        _after(lambda self, step, losses: Losses(terms={"x": torch.ones(())})),
        "no term of forward\\(\\) depends on a network",
    ),
    "other type": (_planted(forward=lambda self, step: {"x": torch.ones(())}), "returned dict, not Losses"),
    "bfloat16": (
        _add(lambda self, step: step.mean(_lossy(step.call(self.head, step.encode("main").cls)))),
        r"term planted/more: .* in bfloat16",
    ),
    "a term in bfloat16": (
        _add(lambda self, step: step.mean(step.call(self.head, step.encode("main").cls))),
        r"term 'more' is bfloat16 under autocast: compute losses in float32",
    ),
    # what is not declared
    "view": (_add(lambda self, step: step.encode("other").cls.mean()), "'planted' uses view 'other'"),
    "layer": (
        _add(lambda self, step: step.mean(step.encode("main")["global"].layers[1])),
        r"KeyError: 1; does views\(\) declare all that is read \(crops, layers, masked, text, label\)",
    ),
    "crops": (_add(lambda self, step: step.encode("main")["local"].cls.mean()), "KeyError: 'local'; does"),
    "captions": (
        _add(lambda self, step: len(step.batch("main").text) * self.scale.sum()),
        r"TypeError: .*NoneType.*does views\(\)",
    ),
    "shared": (_add(lambda self, step: step.shared("dino.head")), r"no objective shares 'dino\.head'"),
    "frozen": (_add(lambda self, step: step.frozen("judge")), r"add a table \[frozen\.judge\]"),
    "balance elsewhere": (
        _add(lambda self, step: step.balance(self.scale.sum(), self.scale)[0]),
        "ValueError: `at` must be a tensor that a verb",
    ),
}


@pytest.mark.parametrize(("target", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_caught(target: type[Objective], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_objective(target, CONFIG.model_copy(update={"use": "test.planted"}))


def _critic(**methods: Callable[..., Any]) -> type[Objective]:
    return type("Planted", (SoundCritic,), methods)


def _judge(self: Any, image: Tensor) -> Losses:
    return Losses(terms={"hinge": self.critic(image).mean()})


def _thaws(self: Any, step: Any) -> Losses:
    self.critic.requires_grad_(True)
    return Losses(terms={"fool": step.mean(-self.critic(step.reconstruct("main").image))})


CRITIC_MISTAKES: dict[str, tuple[type[Objective], str]] = {
    "reconstructs": (
        _critic(critic_loss=lambda self, step: _judge(self, step.reconstruct("main").image)),
        r"critic_loss may use step\.detached\(view\), not step\.reconstruct",
    ),
    "encodes": (
        _critic(critic_loss=lambda self, step: _judge(self, step.encode("main").cls)),
        "critic_loss may not run the shared networks",
    ),
    "never reconstructed": (
        _critic(forward=lambda self, step: Losses(terms={"x": step.mean(step.encode("main").cls)})),
        "no reconstruction of view 'main' was made in the main pass",
    ),
    "detached in forward": (
        _critic(forward=lambda self, step: _judge(self, step.detached("main").image)),
        "no reconstruction of view 'main' was made in the main pass",
    ),
    "thawed in forward": (_critic(forward=_thaws), r"leaves a gradient on the critic's 'objectives\.planted"),
    "not trained": (
        _critic(critic_loss=lambda self, step: Losses(terms={"x": self.critic[1].weight.mean()})),
        r"no gradient reaches objectives\.planted\.critic\.1\.bias",
    ),
    "no term": (
        _critic(critic_loss=lambda self, step: Losses(terms={})),
        r"critic_loss\(\) returned no term",
    ),
    "draws": (
        _critic(critic_loss=lambda self, step: _judge(self, torch.randn(4, 3, 32, 32))),
        "torch's global generator",
    ),
}


@pytest.mark.parametrize(("target", "message"), CRITIC_MISTAKES.values(), ids=CRITIC_MISTAKES)
def test_a_mistake_with_a_critic_is_caught(target: type[Objective], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_objective(target, CRITIC_CONFIG.model_copy(update={"use": "test.planted"}))


def test_a_critic_loss_that_trains_a_head_is_caught() -> None:
    class Planted(SoundCritic):
        def __init__(self, config: ObjectiveConfig, dims: Dims) -> None:
            super().__init__(config, dims)
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, step: Any) -> Losses:
            losses = super().forward(step)
            return Losses(terms={"fool": losses.terms["fool"] * self.gain.sum()})

        def critic_loss(self, step: Any) -> Losses:
            losses = super().critic_loss(step)
            return Losses(terms={"hinge": losses.terms["hinge"] * self.gain.sum()})

    with pytest.raises(
        ConformanceError, match=r"critic_loss\(\) leaves a gradient on 'objectives\.critic\.gain'"
    ):
        check_objective(Planted, CRITIC_CONFIG)
