"""The documents say what is there: commands, files, version, public names."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import vtp_core
from vtp_core.cli.main import main

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/*/README.md")]
)


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return table


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def shell_lines(text: str) -> Iterator[str]:
    """Lines of the fenced shell blocks of a document, without prompt, comment and `cd x &&`."""
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("#")[0].split("&&"):
                yield part.strip()


def test_the_shell_lines_of_a_document_are_found() -> None:
    text = "a\n```bash\n$ cd x && make test  # quick\nvtp run a \\\n  b\n```\n```python\nmake no\n```\n"
    assert list(shell_lines(text)) == ["cd x", "make test", "vtp run a    b"]


def parse(line: str) -> None:
    """Parses a command line with its options and arguments, without running it."""
    words = shlex.split(line)[1:]
    command: click.Command = main
    context = main.make_context("vtp", words)
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, line
        command, context = found, found.make_context(name, rest, parent=context)


def test_a_wrong_option_of_a_document_is_found() -> None:
    parse("vtp run a.toml --resume -s run.steps=3")
    with pytest.raises(click.UsageError, match="--resum"):
        parse("vtp run a.toml --resum")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_commands_of_a_document_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    context = click.Context(main)
    commands = set(main.list_commands(context))
    for line in (re.split(r"[>|]", line)[0].strip() for line in shell_lines(path.read_text())):
        words = [word for word in line.split() if "=" not in word]
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if words[:1] == ["vtp"] and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in commands, line
            parse(line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{target} in {name_of(path)}"


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first = (REPOSITORY / "README.md").read_text().splitlines()[:30]
    assert any("make quickstart" in line for line in first)
    assert any("make test" in line for line in first)


def test_the_changelog_has_this_version() -> None:
    version = str(project()["version"])
    heading = "Unreleased" if ".dev" in version else version
    assert re.search(
        rf"^## \[?{re.escape(heading)}\b", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert vtp_core.__version__ == version


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_listed_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"Usage: main {name}" in done.output and len(done.output.splitlines()) > 3


def test_every_make_target_is_explained() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    explained = set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))
    assert explained == set(phony[1].split())


def public_names() -> list[tuple[str, str]]:
    names = []
    for package in ("vtp_core", "vtp_plugins"):
        for path in sorted((REPOSITORY / package).rglob("__init__.py")):
            module = ".".join(path.parent.relative_to(REPOSITORY).parts)
            names += [(module, name) for name in re.findall(r"\"(\w+)\"", _all_of(path.read_text()))]
    return names


def _all_of(text: str) -> str:
    found = re.search(r"^__all__ = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize(("module", "name"), public_names())
def test_a_public_name_is_documented(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
        text = inspect.getdoc(thing) or ""
        assert text and not text.startswith(f"{name}("), "a dataclass without a docstring gets its signature"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs/decisions").glob("[0-9]*.md")), ids=name_of)
def test_a_decision_record_is_complete(path: Path) -> None:
    text = path.read_text()
    for heading in ("## Context", "## Decision", "## Consequences"):
        assert heading in text
    assert re.search(r"^Status: (proposed|accepted|superseded by \d{3})$", text, re.MULTILINE)


def test_every_decision_record_has_a_number_of_its_own() -> None:
    records = sorted((REPOSITORY / "docs/decisions").glob("[0-9]*.md"))
    numbers = [path.name[:3] for path in records]
    assert numbers == [f"{number:03}" for number in range(len(records))]
    titles = {path.name: path.read_text().splitlines()[0] for path in records[1:]}
    assert all(title.startswith(f"# {name[:3]}: ") for name, title in titles.items()), titles
