"""Hostile recipes: each is one line that names the file, and none hangs or ends in an internal error."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.recipe.conftest import RECIPE
from tests.core.recipe.test_files import message
from vtp_core.cli.arguments.tables import read_table
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_core.recipe.reading.files import MAX_FILES
from vtp_core.recipe.toml_values import MAX_BYTES, MAX_DEPTH, TomlError, parse_toml

Write = Callable[..., str]

NESTED = "nested more than 16 deep"
HOSTILE = {
    "lists": ("x = " + "[" * 50_000 + "]" * 50_000, NESTED),
    "open lists": ("x = " + "[" * 50_000, NESTED),
    "inline tables": ("x = " + "{a=" * 20_000 + "1" + "}" * 20_000, NESTED),
    "a dotted key": ("a" + ".a" * 30_000 + " = 1", NESTED),
    "a dotted header": ("[a" + ' . "a"' * 20_000 + "]", NESTED),
    "a dotted key in a table": ("x = {b = 1, a" + ".a" * 30_000 + " = 1}", NESTED),
    "digits": ("x = " + "9" * 5_000, "64 bits"),
    "hexadecimal digits": (
        "[run]\nsteps = 0x" + "f" * 5_000,
        "run.steps: the integer does not fit into 64 bits",
    ),
    "a NUL in a value": ('[run]\nout = "a\\u0000b"', "run.out: the string holds a NUL character"),
    "a NUL in a key": ('"a\\u0000b" = 1', "a key holds a NUL"),
    "a NUL in a path": ('extends = "a\\u0000b.toml"', "extends: the string holds a NUL"),
    "a NUL in the text": ("x = 1\0", "not valid TOML"),
    "size": ("# " + "x" * MAX_BYTES, "recipe.toml can't be read: larger than 128 KiB"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(write: Write, plugins: Plugins, kind: str) -> None:
    text, words = HOSTILE[kind]
    found = message(write, plugins, text + "\n")
    assert words in found
    assert found.startswith("recipe.toml:") and "\n" not in found and len(found) < 200


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.steps=" + "[" * 50_000, NESTED),
        ("run.steps={a" + ".a" * 30_000 + "=1}", NESTED),
        ("run.steps=" + "9" * 5_000, "64 bits"),
        ("run.steps=0x" + "f" * 5_000, "64 bits"),
        ('run.out="a\\u0000b"', "NUL"),
        ("run.out=" + "x" * MAX_BYTES, "longer than 128 KiB"),
        ("a" + ".a" * 20_000 + "=1", "a key of more than 15 parts"),
        ("run.out=\udcff", "not UTF-8"),
    ],
    ids=["lists", "a key", "digits", "hexadecimal", "NUL", "size", "a long key", "a surrogate"],
)
def test_hostile_overrides(load: Callable[..., Recipe], override: str, words: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load(None, override)
    (problem,) = caught.value.problems
    assert str(problem.place) == "command line -s"
    assert words in problem.message


@pytest.mark.parametrize("values", ["x = " + "[" * 5_000, "x = " + "9" * 5_000 + "}", 'x = "\\u0000"}'])
def test_hostile_inline_tables(plugins: Plugins, values: str) -> None:
    with pytest.raises(UsageError, match="not a TOML table") as caught:
        read_table("{ " + values, "source", plugins)
    assert len(str(caught.value)) < 400


def test_what_is_within_the_limits_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse_toml("x = " + "[" * depth + "]" * depth + f"\ny = {2**63 - 1}\nz = {-(2**63)}")["z"] == -(
        2**63
    )
    with pytest.raises(TomlError, match=NESTED):
        parse_toml("x = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH)
    words = ".".join("abcdefghijklmnopqrstuvwxyz")
    assert parse_toml(f'x = "{words}"  # {words}')["x"] == words


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_extends_of_what_is_no_plain_file(write: Write, plugins: Plugins, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo("base.toml")
    elif kind == "folder":
        os.mkdir("base.toml")
    else:
        os.symlink("/dev/zero", "base.toml")
    expected = "recipe.toml:1 extends base.toml can't be read: not a plain file"
    assert message(write, plugins, 'extends = "base.toml"\n') == expected


def test_extends_through_a_link(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "real.toml")
    os.symlink("real.toml", "base.toml")
    assert load_recipe(write('extends = "base.toml"\n'), (), plugins).run.steps == 20
    os.symlink("round.toml", "round.toml")
    found = message(write, plugins, 'extends = "round.toml"\n')
    assert found.startswith("recipe.toml:1 extends round.toml can't be read: ")


def test_a_name_that_is_too_long(write: Write, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"no such file|no recipe file"):
        load_recipe("x" * 5_000, (), plugins)
    assert "can't be read" in message(write, plugins, f'extends = "{"x" * 5_000}"\n')


def test_extends_that_fans_out(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "base.toml")
    for name, below in (("a", "base"), ("b", "a")):
        write("extends = [" + f'"{below}.toml", ' * 60 + "]\n", f"{name}.toml")
    found = message(write, plugins, "extends = [" + '"b.toml", ' * 60 + "]\n")
    assert f"reads more than {MAX_FILES} files through extends" in found
    many = "extends = [" + '"base.toml", ' * (MAX_FILES - 1) + "]\n"
    assert load_recipe(write(many), (), plugins).run.steps == 20


def test_many_keys_over_many_keys(write: Write, plugins: Plugins) -> None:
    keys = "".join(f"x{index} = 1\n" for index in range(9_000))
    write(keys, "base.toml")
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write('extends = "base.toml"\n' + keys), (), plugins)
    assert {problem.place.file for problem in caught.value.problems} == {"recipe.toml"}


def test_a_home_folder_in_run_out(load: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(RecipeErrors, match=r"~ is not expanded; write /home/me/runs, or \./~/runs"):
        load(None, "run.out=~/runs")
    assert load(None, "run.out=./~/runs").run.out == "./~/runs"
    assert not Path("~").exists()
