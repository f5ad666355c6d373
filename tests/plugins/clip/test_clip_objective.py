"""The objective: ranks, the equal-text mask, exports, optimiser rules."""

from __future__ import annotations

import math
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent
from vtp_core.testing import TINY_DIMS, FakeStep, TinyNetworks, check_objective, drawn_batch
from vtp_core.view import ViewSize
from vtp_plugins.clip.config import ClipConfig
from vtp_plugins.clip.objective import Clip

SMALL: dict[str, Any] = {"use": "clip", "view": "main", "width": 16, "depth": 1, "heads": 2, "context": 12}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"features": "pooled", "bottleneck": True, "embedding": 6},
        {"equal_text_mask": False, "quick_gelu": True, "rows": 4},
    ],
)
def test_conformance(options: dict[str, Any]) -> None:
    check_objective(Clip, ClipConfig(**SMALL, **options), rows=12)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_have_the_gradient_of_one() -> None:
    check_objective(Clip, ClipConfig(**SMALL), rows=12, processes=True)


def _losses(config: ClipConfig, texts: tuple[str, ...], objective: Clip | None = None) -> Any:
    batch = replace(drawn_batch(config.views()["main"], rows=len(texts)), text=texts)
    objective = Clip(config, TINY_DIMS) if objective is None else objective
    return objective(FakeStep({"main": batch}, objective))


def test_equal_captions_are_no_negatives() -> None:
    config = ClipConfig(**SMALL)
    objective = Clip(config, TINY_DIMS)
    plain = Clip(config.model_copy(update={"equal_text_mask": False}), TINY_DIMS)
    plain.load_state_dict(objective.state_dict())
    different = ("a dog", "a cat", "a red bird", "two cars")
    same = ("a dog", "A  Dog", "a dog", "a dog")
    term = [
        _losses(config, texts, each).terms["contrast"].item()
        for texts in (different, same)
        for each in (objective, plain)
    ]
    assert term[0] == pytest.approx(term[1])
    assert term[2] == 0 and term[3] > math.log(4) / 2  # the text rows alone can't tell four equal texts apart


def test_reports_are_shares_of_rows_found() -> None:
    losses = _losses(ClipConfig(**SMALL), ("a dog",) * 3)
    assert losses.report["image_to_text"].item() == losses.report["text_to_image"].item() == 1
    assert losses.report["scale"].item() == pytest.approx(1 / 0.07)


def test_exports_work_on_their_own() -> None:
    for bottleneck in (False, True):
        config = ClipConfig(**SMALL, bottleneck=bottleneck, embedding=7)
        objective = Clip(config, TINY_DIMS).eval()
        networks = TinyNetworks()
        pixels = drawn_batch(config.views()["main"], rows=3).crops["global"]
        (tokens,) = networks.encoder([pixels], [None])
        source: Features | Latent = Features(crops={"global": tokens})
        if bottleneck:
            source = networks.bottleneck(source)
        image = objective.get_submodule(objective.exports["embed_image"])
        assert image.reads == ("latent" if bottleneck else "features")
        text = objective.get_submodule(objective.exports["embed_text"])
        for embedded in (image(source), text(["a", "b", "c"])):
            assert embedded.shape == (3, 7) and torch.allclose(embedded.norm(dim=1), torch.ones(3))


def test_an_encoder_without_class_token_needs_pooled_features() -> None:
    dims = replace(TINY_DIMS, has_cls=False)
    with pytest.raises(UsageError, match="features = 'pooled'"):
        Clip(ClipConfig(**SMALL), dims)
    check_objective(Clip, ClipConfig(**SMALL, features="pooled"), dims=dims, ranks=1)


def test_rules_spare_scale_norms_and_biases_and_nothing_else() -> None:
    objective = Clip(ClipConfig(**SMALL), TINY_DIMS)
    decayed = set()
    for name, parameter in objective.named_parameters():
        rule = next((rule for rule in objective.rules() if fnmatchcase(name, rule.pattern)), None)
        assert (rule is not None and rule.decay == 0) == (parameter.ndim < 2), name
        if rule is None:
            decayed.add(name)
    assert {"image.projection.weight", "text.positions", "text.token_embedding.weight"} <= decayed
    (scale,) = [rule for rule in objective.rules() if rule.clamp is not None]
    assert scale.pattern == "logit_scale" and scale.clamp == (0.0, math.log(100))
    assert objective.logit_scale.shape == (1,)


def test_impossible_sizes_are_recipe_errors() -> None:
    for change in ({"heads": 3}, {"context": 2}, {"temperature": 0}, {"features": "mean"}, {"rows": 0}):
        with pytest.raises(ValidationError):
            ClipConfig(**(SMALL | change))


def test_the_declared_chance_is_the_loss_of_equal_outputs() -> None:
    config = ClipConfig(**SMALL)
    objective = Clip(config, TINY_DIMS)
    with torch.no_grad():
        objective.logit_scale.fill_(-40)
    term = (
        _losses(config, ("a dog", "a cat", "a bird", "two cars", "sky"), objective).terms["contrast"].item()
    )
    assert config.chance({"main": ViewSize(rows=5)}, {}) == {"contrast": pytest.approx(term)}
    assert ClipConfig(**SMALL, rows=2).chance({"main": ViewSize(rows=5)}, {}) == {"contrast": math.log(2)}
