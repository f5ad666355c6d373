"""Files that an earlier version wrote read with the names of today; recipes that a person wrote do not.

``tests/data/before_renames`` is what a run of ``recipe.toml`` left behind before the keys in it were renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from pydantic import BaseModel

from tests.core.recipe.conftest import RECIPE
from tests.core.recipe.test_files import Write
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import Head, read_config
from vtp_core.config import ComponentConfig, KeyHistory
from vtp_core.plugins import Plugins, hookimpl, load_plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_core.recipe.history import CORE, METRICS, update_recipe, update_table
from vtp_core.recipe.reading.keys import key_of
from vtp_core.run.metrics import MetricsLog
from vtp_core.run.records import RunFolder
from vtp_core.run.setup.recipe_change import check_recipe
from vtp_core.training.saving.manifest import read_manifest

OLD = Path("tests/data/before_renames")
NEW_NAMES = {
    "centre_momentum": "center_momentum",
    '"normalised"': '"normalized"',
    "most =": "max_filters =",
    '"colour"': '"color"',
    "twins =": "networks =",
    "neighbours": "neighbors",
}


@pytest.fixture(scope="module")
def installed() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory, installed: Plugins) -> Recipe:
    """The recipe of the fixture as it is written today."""
    text = (OLD / "recipe.toml").read_text()
    for old, new in NEW_NAMES.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(text)
    return load_recipe(path, (), installed)


def test_a_recipe_with_old_names_is_an_error_that_gives_the_new_ones(installed: Plugins) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(OLD / "recipe.toml", (), installed)
    lines = (OLD / "recipe.toml").read_text().splitlines()
    found = {}
    for problem in caught.value.problems:
        assert problem.place.file == str(OLD / "recipe.toml")
        assert problem.key.rpartition(".")[2].split("[")[0] in lines[problem.place.line - 1]
        found[problem.key] = problem.message
    assert found == {
        "objectives.dino.centre_momentum": 'renamed; write "center_momentum"',
        "objectives.mim.centre_momentum": 'renamed; write "center_momentum"',
        "objectives.l1.space": '"normalised" was renamed; write "normalized"',
        "objectives.gan.critic.most": 'renamed; write "max_filters"',
        "objectives.gan.critic.augment[0]": '"colour" was renamed; write "color"',
        "ema.twins": 'renamed; write "networks"',
        "evaluators.knn.neighbours": 'renamed; write "neighbors"',
    }


def test_the_resolved_recipe_of_an_old_run_is_read(installed: Plugins, renamed: Recipe) -> None:
    recipe = load_recipe(OLD / "resolved.toml", (), installed)
    assert recipe == renamed
    assert recipe.provenance["objectives.dino.center_momentum"].line > 1
    assert "objectives.dino.centre_momentum" not in recipe.provenance


def test_what_a_person_sets_over_it_has_the_new_names(installed: Plugins) -> None:
    new = load_recipe(OLD / "resolved.toml", ["objectives.dino.center_momentum=0.5"], installed)
    assert new.objectives["dino"].center_momentum == 0.5
    with pytest.raises(RecipeErrors, match=r"command line -s .*centre_momentum .*write \"center"):
        load_recipe(OLD / "resolved.toml", ["objectives.dino.centre_momentum=0.5"], installed)


def test_an_old_checkpoint_is_of_the_same_recipe(installed: Plugins, renamed: Recipe) -> None:
    manifest = read_manifest(OLD)
    present = renamed.model_dump(mode="json", by_alias=True)
    assert check_recipe(OLD, manifest, present, installed) == []
    assert "twins" in manifest.recipe["ema"]  # what was read stays as it is
    present["objectives"]["dino"]["center_momentum"] = 0.5
    (line,) = check_recipe(OLD, manifest, present, installed, allow_change=True)
    assert line == "objectives.dino.center_momentum: 0.8 -> 0.5"


def test_metrics_of_an_old_run_have_the_new_names(tmp_path: Path) -> None:
    raw = [json.loads(line) for line in (OLD / "metrics.jsonl").read_text().splitlines()]
    assert any(name.startswith("grad_share/") for name in raw[0])
    lines = RunFolder(OLD).read_metrics()
    assert len(lines) == len(raw)
    for line, old in zip(lines, raw, strict=True):
        assert not [name for name in line if name.startswith(tuple(METRICS))]
        assert line["grad_norm_at/encode.image/clip"] == old["grad_share/encode.image/clip"]
        assert len(line) == len(old) and line["loss/l1/pixels"] == old["loss/l1/pixels"]
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    assert RunFolder(tmp_path).read().metrics == lines
    with MetricsLog(tmp_path / "metrics.jsonl", last_step=4) as log:
        log.write(5, {"grad_norm_at/encode.image/clip": 1.0})
    assert [line["step"] for line in RunFolder(tmp_path).read_metrics()] == [1, 2, 4, 5]


def test_an_old_artefact_is_assembled_and_saved_with_the_new_names(
    installed: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(OLD)
    tokenizer = assemble(config, installed)
    assert tokenizer.config == config and set(tokenizer.exports) == {
        "embed_image",
        "embed_text",
        "logit_scale",
    }
    table = read_manifest(OLD).recipe["objectives"]["dino"]
    dino = installed.find("objective", "dino").load_target()
    monkeypatch.setattr(dino, "exports", {"scores": "prototypes"})
    old = config.model_copy(update={"heads": {"d": Head(objective=table, exports={"scores": "prototypes"})}})
    head = assemble(old, installed).config.heads["d"]
    assert head.objective["center_momentum"] == table["centre_momentum"] == 0.8
    assert "centre_momentum" not in head.objective


class Deep(ComponentConfig):
    key_history: ClassVar[KeyHistory] = KeyHistory(
        renamed={"parts.*.old": "parts.*.new", "flat": "sizes.width"},
        values={"kinds": {"grey": "gray"}},
        added={"parts.*.eps": 1e-6, "sizes.depth": [1]},
    )


class WithDeep:
    vtp_api = 2
    Deep = Deep

    @hookimpl
    def register_encoders(self, register: Any) -> None:
        register("deep", "vtp_core.encoder:Encoder", config=Deep)


@pytest.fixture
def deep() -> Plugins:
    plugins = Plugins()
    plugins.add(WithDeep(), "vtp-core", distribution="vtp-core")
    return plugins


def test_keys_move_between_tables_and_new_ones_get_their_old_meaning(deep: Plugins) -> None:
    table = {
        "use": "deep",
        "flat": 3,
        "sizes": {},
        "kinds": ["grey", "red"],
        "parts": {"a": {"old": 1}, "b": {"new": 2, "eps": 0.1}, "c": 5},
    }
    before = json.loads(json.dumps(table))
    assert update_table("encoder", table, deep) == {
        "use": "deep",
        "sizes": {"width": 3, "depth": [1]},
        "kinds": ["gray", "red"],
        "parts": {"a": {"new": 1, "eps": 1e-6}, "b": {"new": 2, "eps": 0.1}, "c": 5},
    }
    assert table == before


def test_a_frozen_network_and_a_table_of_the_wrong_type(deep: Plugins) -> None:
    recipe: dict[str, Any] = {
        "frozen": {"a": {"use": "deep", "flat": 3, "sizes": 4, "weights": ""}},
        "ema": 3,
        "encoder": [{"use": "deep"}],
        "objectives": {"x": None},
    }
    changes = update_recipe(recipe, deep)
    assert [(change.old, change.new) for change in changes] == [
        (("frozen", "a", "flat"), ("frozen", "a", "sizes", "width"))
    ]
    assert recipe["frozen"]["a"]["sizes"] == 4
    assert changes[0].message == 'renamed; write "frozen.a.sizes.width"'


def test_what_is_new_is_added_to_written_recipes_alone(
    write: Write, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = KeyHistory(added={"run.log_every": 77})
    monkeypatch.setattr("vtp_core.recipe.history.CORE", history)
    assert load_recipe(write(RECIPE), (), plugins).run.log_every == 10
    assert load_recipe(write(RECIPE, "resolved.toml"), (), plugins).run.log_every == 77


def _models(installed: Plugins) -> Iterator[tuple[type[BaseModel], KeyHistory]]:
    yield Recipe, CORE
    for component in installed.components():
        config = component.load_config()
        yield config, config.key_history


def _keys(model: type[BaseModel]) -> dict[str, bool]:
    """Keys of a model and of the tables in it -> whether they may be unset."""
    found: dict[str, bool] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, field in annotation.model_fields.items():
                key = key_of(name, field)
                if key not in found:
                    found[key] = type(None) in get_args(field.annotation)
                    walk(field.annotation)
        for inner in get_args(annotation):
            walk(inner)

    walk(model)
    return found


def test_histories_name_keys_that_there_are(installed: Plugins) -> None:
    seen = 0
    for model, history in _models(installed):
        keys = _keys(model)
        for old, new in history.renamed.items():
            assert old.count("*") == new.count("*")
            assert new.rpartition(".")[2] in keys and old.rpartition(".")[2] not in keys, (model, old)
            seen += 1
        for key in (*history.values, *history.added):
            assert key.rpartition(".")[2] in keys, (model, key)
        for key in history.added:
            assert not keys[key.rpartition(".")[2]], f"{key} may be unset, which files leave out"
    assert seen >= 5
