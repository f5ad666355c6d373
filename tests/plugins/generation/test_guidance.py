"""Guidance that the training does not prepare is refused: by `vtp validate`, and of an exported head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plugins.generation_ar.test_runs import RECIPE
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator
from vtp_plugins.generation_ar.config import GenerationArConfig
from vtp_plugins.generation_ar.generator import CodeGenerator

PLUGINS = load_plugins(only=["vit", "vq", "samples", "generation", "generation_ar"])
TINY = {"width": 16, "depth": 1, "heads": 2}
USES = ["generation", "generation_ar"]
CANNOT = {
    "no classes": ("classes = 0", 3.0, "guidance needs classes, and this generator has none"),
    "no class is hidden": ("drop_class = 0.0", 3.0, "rows without a class, and drop_class = 0 leaves none"),
    "no class alone": ("drop_class = 0.0", 0.0, "rows without a class, and drop_class = 0 leaves none"),
    "every class is hidden": ("drop_class = 1.0", 2.0, "rows with a class, and drop_class = 1 leaves none"),
}
CAN = {"none": ("classes = 0", 1.0), "hidden": ("drop_class = 0.1", 3.0)}


def read(folder: Path, use: str, key: str, guidance: float, name: str = "mine.toml") -> Recipe:
    text = RECIPE.replace('use = "generation_ar"', f'use = "{use}"\nsampling = {{ guidance = {guidance} }}')
    text = re.sub(rf"^{key.split()[0]} = .*\n", "", text, flags=re.M).replace(
        'view = "codes"', f'view = "codes"\n{key}'
    )
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, plugins=PLUGINS)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", CANNOT)
def test_a_recipe_is_refused_with_one_line(tmp_path: Path, use: str, case: str) -> None:
    key, guidance, message = CANNOT[case]
    with pytest.raises(RecipeErrors) as caught:
        read(tmp_path, use, key, guidance)
    (problem,) = caught.value.problems
    assert problem.key == "objectives.ar.sampling.guidance" and message in problem.message
    assert problem.message.endswith(f"; set guidance to 1 (none), or change {key.split()[0]}")
    assert problem.place.line == 1 + RECIPE.splitlines().index('use = "generation_ar"') + 1
    # What a run wrote before still loads.
    assert read(tmp_path, use, key, guidance, "resolved.toml")


@pytest.mark.parametrize("use", USES)
def test_a_tokenizer_that_is_trained_is_refused(tmp_path: Path, use: str) -> None:
    """Its latents would change under the generator."""
    for freeze, trained in (('["decoder"]', "encoder and bottleneck"), ('["encoder"]', "bottleneck")):
        (line,) = [line for line in RECIPE.splitlines() if line.startswith("freeze")]
        text = RECIPE.replace(line, f"freeze = {freeze}").replace('"generation_ar"', f'"{use}"')
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecipeErrors, match=f"frozen tokenizer, but {trained} would be trained"):
            load_recipe(path, plugins=PLUGINS)
        assert load_recipe(path.rename(tmp_path / "resolved.toml"), plugins=PLUGINS)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", CAN)
def test_what_can_work_is_not(tmp_path: Path, use: str, case: str) -> None:
    assert read(tmp_path, use, *CAN[case])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", CANNOT)
def test_a_head_refuses_it_by_its_own_settings_and_by_those_of_a_call(use: str, case: str) -> None:
    key, guidance, message = CANNOT[case]
    name, _, value = key.partition(" = ")
    table: dict[str, Any] = {"use": use, "view": "image", "classes": 2, "transformer": TINY}
    table[name] = float(value) if "." in value else int(value)

    def head(**sampling: float) -> FlowGenerator | CodeGenerator:
        made: FlowGenerator | CodeGenerator
        if use == "generation":
            made = FlowGenerator(GenerationConfig(**table, sampling=sampling), 4)  # type: ignore[arg-type]
        else:
            made = CodeGenerator(GenerationArConfig(**table, sampling=sampling), (3,))  # type: ignore[arg-type]
        made.grid.fill_(2)
        return made

    own, asked = head(guidance=guidance), head()
    with pytest.raises(UsageError, match=message):
        own.generate(torch.arange(1), 0, (4, 2, 2))
    with pytest.raises(UsageError, match=message):
        asked.with_settings({"guidance": guidance})
    plain = own.with_settings({"guidance": 1.0})
    assert own.generate(torch.arange(1), 0, (4, 2, 2), settings=plain).shape[0] == 1
