"""`encoder = { from = "vtp-nano" }`: the keys of a trained tokenizer in a recipe, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vtp_core.plugins import load_plugins
from vtp_core.recipe import Recipe, RecipeErrors, dump_toml, load_recipe
from vtp_core.recipe.writing.json_schema import recipe_schema
from vtp_plugins.vtp_nano.artefact import folder

PLUGINS = load_plugins()
NANO = json.loads((folder() / "config.json").read_text())
NANO["bottleneck"]["norm"] = "none"  # a key that came later, with the value that changes nothing


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(text: str, *overrides: str) -> Recipe:
    """The quickstart with other tables."""
    Path("mine.toml").write_text(f'extends = "quickstart"\n{text}\n')
    return load_recipe("mine.toml", overrides, PLUGINS)


def table(found: Recipe, part: str) -> dict[str, object]:
    """A part's keys, as JSON holds them."""
    dumped: dict[str, object] = json.loads(getattr(found, part).model_dump_json())
    return dumped


@pytest.mark.parametrize("part", ["encoder", "bottleneck", "decoder"])
@pytest.mark.parametrize("spelled", ['{part} = {{ from = "{name}" }}', '[{part}]\nfrom = "{name}"'])
def test_all_keys_are_taken(part: str, spelled: str) -> None:
    found = recipe(spelled.format(part=part, name="vtp-nano"))
    assert table(found, part) == NANO[part]


def test_keys_beside_it_and_above_it_hold() -> None:
    Path("base.toml").write_text(
        'extends = "quickstart"\nencoder = { from = "VTP_nano", layer_decay = 0.9 }\n'
    )
    Path("mine.toml").write_text('extends = "base.toml"\nencoder.depth = 2\n')
    found = load_recipe("mine.toml", ["encoder.patch_embed_lr=0.5"], PLUGINS)
    assert table(found, "encoder") == NANO["encoder"] | {
        "layer_decay": 0.9,
        "depth": 2,
        "patch_embed_lr": 0.5,
    }
    assert str(found.provenance["encoder.width"]) == "base.toml:2"
    assert str(found.provenance["encoder.depth"]) == "mine.toml:2"


def test_it_replaces_the_keys_of_what_the_recipe_extends() -> None:
    Path("base.toml").write_text(
        'extends = "quickstart"\nencoder.layer_decay = 0.5\nencoder.qk_norm = false\n'
    )
    Path("mine.toml").write_text('extends = "base.toml"\nencoder = { from = "vtp-nano" }\n')
    assert table(load_recipe("mine.toml", (), PLUGINS), "encoder") == NANO["encoder"]


@pytest.mark.parametrize("order", [1, -1])
def test_on_the_command_line_in_any_order(order: int) -> None:
    found = load_recipe("quickstart", ["encoder.depth=2", "encoder.from=vtp-nano"][::order], PLUGINS)
    assert table(found, "encoder") == NANO["encoder"] | {"depth": 2}


def test_of_an_artefact_a_run_and_a_checkpoint() -> None:
    """The tokenizer of a run if there is one, else its recipe."""
    run = Path("runs/a")
    (run / "checkpoints/step-00000001").mkdir(parents=True)
    source = recipe('bottleneck = { use = "kl", channels = 7 }')
    (run / "resolved.toml").write_text(dump_toml(source))
    for given in (run, run / "checkpoints/step-00000001"):
        assert recipe(f'bottleneck = {{ from = "{given}" }}').bottleneck == source.bottleneck
    (run / "tokenizer").mkdir()
    (run / "tokenizer/config.json").write_text(json.dumps(NANO))
    for given in (run, run / "tokenizer"):
        assert table(recipe(f'bottleneck = {{ from = "{given}" }}'), "bottleneck") == NANO["bottleneck"]


def test_the_resolved_recipe_holds_the_keys() -> None:
    found = recipe('encoder = { from = "vtp-nano" }')
    text = dump_toml(found)
    assert not re.search(r"\bfrom = ", text)
    Path("resolved.toml").write_text(text)
    assert load_recipe("resolved.toml", (), PLUGINS) == found


def test_keys_of_earlier_versions_are_updated() -> None:
    """The artefact's table is read as `load` reads it: with the keys that were added since."""
    older = json.loads(json.dumps(NANO))
    for key in ("patch_embed_lr", "drop_path_mode"):
        del older["encoder"][key]
    Path("old").mkdir()
    Path("old/config.json").write_text(json.dumps(older))
    assert table(recipe('encoder = { from = "old" }'), "encoder") == NANO["encoder"]


REFUSED = {
    "an unknown name": (
        'encoder = { from = "vtp-nanno" }',
        'no shipped tokenizer "vtp-nanno"; did you mean "vtp-',
    ),
    "an unknown folder": ('encoder = { from = "runs/x" }', "runs/x: no tokenizer or run here"),
    "a number": ("encoder = { from = 3 }", "expected the name or folder of a tokenizer"),
    "another component": ('encoder = { use = "cnn", from = "vtp-nano" }', 'its encoder is "vit", not "cnn"'),
    "another project's": ('encoder = { from = "theirs" }', "theirs/config.json: of another project"),
    "no such part": ('decoder = { from = "bare" }', "bare/config.json: has no decoder"),
    "damaged": ('decoder = { from = "damaged" }', "damaged/config.json: can't be read"),
    "an unknown key": ('encoder = { from = "vtp-nano", dept = 3 }', 'unknown key; did you mean "depth"'),
    "in other tables": ('[run]\nfrom = "vtp-nano"', "run.from  unknown key"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_names_file_line_and_key(text: str, message: str) -> None:
    configs = {
        "theirs": json.dumps({"model": "x"}),
        "bare": json.dumps(NANO | {"decoder": None}),
        "damaged": '{"format": "vtp-tokenizer", "decoder": ' + "[" * 100_000,
    }
    for name, content in configs.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(content)
    with pytest.raises(RecipeErrors) as caught:
        recipe(text)
    (problem,) = caught.value.problems
    line = f"{problem.place}  {problem.key}  {problem.message}"
    assert message in line and problem.place.file == "mine.toml" and problem.place.line >= 2


def test_an_editor_knows_the_key() -> None:
    definitions = recipe_schema(PLUGINS)["$defs"]
    assert all(definitions[part]["properties"]["from"]["description"] for part in NANO if part in definitions)
    assert "from" not in definitions["objective"]["properties"]


def test_it_imports_no_torch() -> None:
    code = (
        "import sys\nfrom vtp_core.recipe import load_recipe\n"
        "load_recipe('quickstart', ['encoder.from=vtp-nano'])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
