"""The anchor against plain formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vtp_core.errors import UsageError
from vtp_core.features import Features, Tokens
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.testing.networks import TinyEncoder
from vtp_plugins.anchor.config import AnchorConfig
from vtp_plugins.anchor.objective import Anchor

TABLE: dict[str, Any] = {"use": "anchor", "view": "main", "network": "copy"}


@pytest.mark.parametrize(
    "options",
    [{}, {"kind": "mse", "cls": True, "layers": (0,), "rows": 4}, {"kind": "distances", "layers": (1,)}],
)
def test_conformance(options: dict[str, Any]) -> None:
    check_objective(Anchor, AnchorConfig(**TABLE, **options), frozen={"copy": TinyEncoder()})


@pytest.mark.parametrize("kind", ["cosine", "mse", "distances"])
def test_terms_against_plain_formulas(kind: Any) -> None:
    torch.manual_seed(0)
    objective = Anchor(AnchorConfig(**TABLE, kind=kind, layers=(1,)), TINY_DIMS)
    batch = drawn_batch(objective.views()["main"], rows=3, counts={"global": 1})
    own = {name: torch.randn(3, 1, 16, 16) for name in ("patches", "layer_1")}
    served = Features(
        crops={"global": Tokens(patches=own["patches"], grid=(4, 4), layers={1: own["layer_1"]})}
    )
    step = FakeStep({"main": batch}, objective, features={"main": served}, frozen={"copy": TinyEncoder()})
    tokens = step.frozen_features("copy", "main", (1,))["global"]
    losses = objective(step)
    assert set(losses.terms) == {"patches", "layer_1"}
    for name, target in {"patches": tokens.patches, "layer_1": tokens.layers[1]}.items():
        a, b = own[name].double(), target.double()

        def similarity(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cosine_similarity(x, y, dim=-1)

        expected = {
            "cosine": lambda a=a, b=b: 1 - similarity(a, b),
            "mse": lambda a=a, b=b: (a - b) ** 2,
            "distances": lambda a=a, b=b: (
                similarity(a[:, :, :, None], a[:, :, None]) - similarity(b[:, :, :, None], b[:, :, None])
            ).abs(),
        }[kind]().mean()
        torch.testing.assert_close(losses.terms[name].detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_frozen_copy_itself_costs_nothing() -> None:
    objective = Anchor(AnchorConfig(**TABLE), TINY_DIMS)
    batch = drawn_batch(objective.views()["main"], rows=2, counts={"global": 1})
    copy = TinyEncoder()
    (tokens,) = copy([batch.crops["global"]], [None])
    served = Features(crops={"global": Tokens(patches=tokens.patches.detach(), grid=tokens.grid)})
    step = FakeStep({"main": batch}, objective, features={"main": served}, frozen={"copy": copy})
    assert objective(step).terms["patches"].item() == pytest.approx(0, abs=1e-6)


def test_what_can_not_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing is compared"):
        Anchor(AnchorConfig(**TABLE, patches=False), TINY_DIMS)
    with pytest.raises(UsageError, match="cls needs"):
        Anchor(AnchorConfig(**TABLE, cls=True, kind="distances"), TINY_DIMS)
    objective = Anchor(AnchorConfig(**TABLE), TINY_DIMS)
    batch = drawn_batch(objective.views()["main"], rows=2, counts={"global": 1})
    served = Features(crops={"global": Tokens(patches=torch.randn(2, 1, 16, 8), grid=(4, 4))})
    step = FakeStep({"main": batch}, objective, features={"main": served}, frozen={"copy": TinyEncoder()})
    with pytest.raises(
        UsageError, match=r"patches of \[frozen.copy\] are \(1, 16, 16\), the encoder's \(1, 16, 8\)"
    ):
        objective(step)
