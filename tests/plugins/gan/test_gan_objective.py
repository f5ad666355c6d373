"""The adversarial objective on its own: conformance, precision, options, its table and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.plugins.gan.gan_runs import AUGMENTED, HEADS
from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.pixels import SIGNED, convert
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.view import ViewNeed
from vtp_plugins.gan.config import DinoConfig, GanConfig, PatchGanConfig, StyleGanConfig
from vtp_plugins.gan.objective import Gan

RECIPES = Path(__file__).parents[3] / "recipes"
CASES: list[dict[str, Any]] = [
    {"critic": AUGMENTED, "lecam": 0.1},
    {"critic": PatchGanConfig(filters=4), "loss": "relativistic", "r1": 1.0, "r2": 1.0},
    {"critic": StyleGanConfig(filters=4, layers=3, norm="group"), "adaptive": "last_layer", "r1": 1.0},
    {"critic": HEADS, "loss": "non_saturating", "adaptive": "none", "r1": 1.0},
]


def _config(**fields: Any) -> GanConfig:
    return GanConfig(**{"use": "gan", "view": "rec", "critic": PatchGanConfig(filters=4, layers=2)} | fields)


def _gan(**fields: Any) -> Gan:
    torch.manual_seed(0)
    return Gan(_config(**fields), TINY_DIMS)


def _step(images: torch.Tensor | None = None, **fields: Any) -> FakeStep:
    batch = drawn_batch(ViewNeed(), rows=4, counts={})
    return FakeStep({"rec": batch}, images=None if images is None else {"rec": images}, **fields)


def _critic_loss(gan: Gan, step: FakeStep) -> Losses:
    step.reconstruct("rec")
    return gan.critic_loss(step.critic_step())


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: fields["critic"].kind)
def test_it_keeps_the_rules_of_objectives(fields: dict[str, Any]) -> None:
    check_objective(Gan, _config(**fields))


def test_adversarial_terms_stay_float32_under_autocast() -> None:
    gan = _gan()
    seen: list[torch.dtype] = []
    handle = gan.critic.register_forward_hook(lambda *call: seen.extend([call[1][0].dtype, call[2].dtype]))
    image = torch.randn(4, 3, 32, 32).bfloat16()
    plain = _critic_loss(gan, _step(image)).terms["critic"]
    with torch.autocast("cpu", torch.bfloat16):
        step = _step(image)
        losses, critic = gan(step), _critic_loss(gan, step)
    handle.remove()
    assert set(seen) == {torch.float32} and len(seen) == 10
    assert losses.terms["adversarial"].dtype == torch.float32
    assert torch.equal(critic.terms["critic"], plain)


def test_the_critic_sees_pixels_between_minus_one_and_one() -> None:
    gan = _gan()
    seen: list[torch.Tensor] = []
    handle = gan.critic.register_forward_hook(lambda *call: seen.append(call[1][0].detach()))
    step = _step()
    _critic_loss(gan, step)
    handle.remove()
    real, fake = seen
    torch.testing.assert_close(real, convert(step.batch("rec").image, "imagenet", SIGNED))
    torch.testing.assert_close(fake, convert(step.reconstruct("rec").image.detach(), "imagenet", SIGNED))


def test_rounded_reconstructions_are_eight_bit() -> None:
    gan = _gan(round_reconstructions=True)
    seen: list[torch.Tensor] = []
    handle = gan.critic.register_forward_hook(lambda *call: seen.append(call[1][0].detach()))
    _critic_loss(gan, _step(torch.randn(4, 3, 32, 32) * 2))
    handle.remove()
    levels = (seen[1] + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert seen[1].min() == -1 and seen[1].max() == 1


def test_augmentations_differ_between_steps_and_not_between_runs() -> None:
    gan = _gan(critic=AUGMENTED)
    first = _critic_loss(gan, _step(index=0)).terms["critic"]
    assert torch.equal(_critic_loss(gan, _step(index=0)).terms["critic"], first)
    assert not torch.equal(_critic_loss(gan, _step(index=1)).terms["critic"], first)


def test_the_adaptive_weight_is_bounded() -> None:
    gan = _gan(limit=2.0)
    weight = gan(_step(others=1e9)).report["d_weight"]
    assert weight.item() == 2.0


def test_an_image_too_small_for_the_critic_is_named() -> None:
    with pytest.raises(UsageError, match=r"\[views.rec\] size: .* patchgan needs .* 48 pixels .*got 32"):
        _gan(critic=PatchGanConfig(filters=4, layers=4))(_step())


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="lecam regularises absolute logits"):
        _config(loss="relativistic", lecam=0.1)
    with pytest.raises(ValidationError, match="tag 'unet' found"):
        _config(critic={"kind": "unet"})


def test_a_plan_builds_a_random_network_and_sees_the_decoder_s_loss() -> None:
    config = _config(critic=DinoConfig(weights="dino.safetensors"), warmup=100).untrained()
    assert isinstance(config.critic, DinoConfig)
    assert config.critic.weights == "random" and config.exposure(0) == 1


def test_the_shipped_recipe_tunes_the_decoder_alone() -> None:
    recipe = load_recipe(RECIPES / "quickstart_gan.toml", (), load_plugins())
    assert set(recipe.freeze) == {"encoder", "bottleneck"} and recipe.init_from == "runs/quickstart"
    assert set(recipe.objectives) == {"l1", "perceptual", "gan"}
    assert recipe.ema.networks == ("tokenizer.decoder",)
    gan = recipe.objectives["gan"]
    assert isinstance(gan, GanConfig)
    assert gan.exposure(gan.warmup - 1) == 0 and gan.exposure(recipe.run.steps - 1) == 1


def test_an_error_in_the_critic_s_table_is_named_with_its_line(tmp_path: Path) -> None:
    text = (RECIPES / "quickstart_gan.toml").read_text("utf-8")
    text = text.replace('extends = "quickstart.toml"', 'extends = "base.toml"').replace("filters", "filtres")
    (tmp_path / "stage.toml").write_text(text, "utf-8")
    (tmp_path / "base.toml").write_text((RECIPES / "quickstart.toml").read_text("utf-8"), "utf-8")
    line = 1 + [row.startswith("filtres") for row in text.splitlines()].index(True)
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "stage.toml", (), load_plugins())
    assert f"stage.toml:{line}" in str(caught.value) and "filters" in str(caught.value)
