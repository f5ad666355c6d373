"""The core names no plugin, in strings either: what it says of one it asked the plugin for."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vtp_core.plugins import load_plugins
from vtp_core.plugins.component import FIRST_PARTY

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "vtp_core"

ALLOWED: dict[str, tuple[set[str], str]] = {
    "branches": ({"tokenizer/model.py"}, "what a tokenizer can do"),
    "clip": (
        {"data/crops/augment.py", "recipe/tables/augmentation.py", "plugins/own.py"},
        "an augmentation, named for the paper's",
    ),
    "codebook": ({"ops/nearest_code.py"}, "an argument of the search operator"),
    "data": ({"recipe/reading/check.py", "report/"}, "the recipe's table"),
    "dino": (
        {"data/crops/augment.py", "recipe/tables/augmentation.py", "plugins/own.py"},
        "an augmentation, named for the paper's",
    ),
    "generate": (
        {
            "artefact/folder.py",
            "cli/leaderboard.py",
            "evaluation/",
            "report/generated.py",
            "run/setup/generators.py",
            "tokenizer/",
        },
        "a capability",
    ),
    "generation": (
        {"evaluation/evaluator.py", "leaderboard/board.py", "leaderboard/page.py", "report/verdict.py"},
        "an aspect that evaluators measure",
    ),
    "init": ({"run/setup/build.py"}, "the purpose of a seed"),
    "kernels": ({"run/"}, "the recipe's table, and what a run records of its choices"),
    "l2": ({"ops/nearest_code.py", "ops/nearest_code_distance.py"}, "a metric of the search operator"),
    "latents": (
        {"artefact/latent_shards.py", "cli/encode.py", "cli/decode.py", "latents/"},
        "a tensor of a file of latents",
    ),
    "linear": ({"schedule.py"}, "the shape of a schedule"),
    "samples": (
        {"artefact/latent_manifest.py", "data/files.py", "report/", "run/loop.py", "run/records.py"},
        "rows of data, a folder",
    ),
    "scale": (
        {"ops/attention.py", "recipe/tables/views.py"},
        "an argument of attention, a crop's share of the image",
    ),
    "vtp": (
        {"__main__.py", "cli/", "installation.py", "plugins/"},
        "the command, and the group of entry points",
    ),
}
"""Word of the core's own that is a first-party plugin's name too -> where it may stand, its meaning there."""


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and value of every string, pieces of f-strings included, docstrings (of values too) left out."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    docstrings = {id(node.value) for node in statements}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def first_party_names() -> set[str]:
    """Names of the built-in plugins and of all that they offer, as the plugin manager has them."""
    points = importlib.metadata.distribution(FIRST_PARTY).entry_points.select(group="vtp")
    plugins = load_plugins(only=[point.name for point in points])
    assert not plugins.failures
    offered = {item.name for plugin in plugins for item in plugin.components}
    return offered | {plugin.name for plugin in plugins}


def imported(folder: Path) -> set[str]:
    """First names of the modules that a package imports."""
    names: set[str] = set()
    for path in python_files(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def packages_of_plugins() -> set[str]:
    """Packages, by both kinds of name, that vtp-core requires or a plugin imports and the core does not."""
    distributions = importlib.metadata.packages_distributions()
    core = imported(CORE)
    modules = imported(REPOSITORY / "vtp_plugins") - core - set(sys.stdlib_module_names) - {"vtp_plugins"}
    required = {Requirement(line).name for line in importlib.metadata.requires(FIRST_PARTY) or ()}
    core_owners = {canonicalize_name(name) for module in core for name in distributions.get(module, ())}
    required = {name for name in required if canonicalize_name(name) not in core_owners}
    return modules | required | {name for module in modules for name in distributions.get(module, ())}


def allowed(word: str, path: Path) -> bool:
    places, _ = ALLOWED.get(word, ((), ""))
    return any(path.relative_to(CORE).as_posix().startswith(place) for place in places)


def found(path: Path, words: set[str]) -> list[tuple[int, str]]:
    """Strings of a file that name a plugin: its line and the word."""
    rows = []
    for line, text in strings(ast.parse(path.read_text())):
        word = text.strip()
        if "vtp_plugins" in text or (word in words and not allowed(word, path)):
            rows.append((line, word))
    return rows


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""vtp_plugins in a docstring."""\nx = 1\n"""samples"""', []),
        ('x = "samples"', [(1, "samples")]),
        ('x = f"{1} samples {2}"', [(1, "samples")]),
        ('x = ["a", {"vtp_plugins.kernels": 1}]', [(1, "vtp_plugins.kernels")]),
        ('x = f"vtp_plugins.{1}"', [(1, "vtp_plugins.")]),
        ('x = "all samples"', []),
        ('def f(x="samples"):\n    """samples"""\n    return "samples"', [(1, "samples"), (3, "samples")]),
    ],
)
def test_the_search_finds_strings_and_no_docstrings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: list[tuple[int, str]]
) -> None:
    monkeypatch.setitem(globals(), "CORE", tmp_path)
    (tmp_path / "a.py").write_text(source)
    assert sorted(found(tmp_path / "a.py", {"samples"})) == expected


def test_the_names_are_those_of_the_real_plugins() -> None:
    assert {"clip", "vit", "webdataset", "image_folder", "kernels"} <= first_party_names()
    assert {"timm", "lpips", "webdataset", "open_clip", "open_clip_torch"} <= packages_of_plugins()
    assert not {"torch", "pydantic", "vtp_core"} & packages_of_plugins()


def test_no_string_of_the_core_names_a_plugin_or_what_it_offers() -> None:
    words = first_party_names() | packages_of_plugins()
    rows = {path: found(path, words) for path in python_files(CORE)}
    bad = [
        f"{path.relative_to(REPOSITORY)}:{line} {word!r}"
        for path, lines in rows.items()
        for line, word in lines
    ]
    assert not bad, "ask the plugin; a word of the core's own goes into ALLOWED with its meaning"


def test_every_allowed_word_is_still_there() -> None:
    words = first_party_names()
    used = {
        (word, place)
        for path in python_files(CORE)
        for _, text in strings(ast.parse(path.read_text()))
        if (word := text.strip()) in words and word in ALLOWED
        for place in ALLOWED[word][0]
        if path.relative_to(CORE).as_posix().startswith(place)
    }
    assert used == {(word, place) for word, (places, _) in ALLOWED.items() for place in places}


def test_no_template_of_the_core_names_the_plugins_package() -> None:
    texts = [path for path in CORE.rglob("*") if path.suffix in (".template", ".j2", ".html", ".css")]
    assert texts and not [path for path in texts if "vtp_plugins" in path.read_text()]
