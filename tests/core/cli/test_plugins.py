"""``vtp plugins``: listing, showing, failures."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from vtp_core.cli.plugins import plugins as command
from vtp_core.errors import UsageError

GOOD = """
from vtp_core.plugins import hookimpl
from vtp_core.config import ObjectiveConfig
vtp_api = 2
print("noise")

class Config(ObjectiveConfig):
    size: int = 3
    '''How large.'''

@hookimpl
def register_objectives(register):
    register("thing", "nowhere:Thing", config=Config, summary="A thing.")

@hookimpl
def register_encoders(register):
    register("net", "nowhere:Net")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command with no installed plugin but the file mine.py."""
    monkeypatch.setenv("VTP_PLUGINS", "")
    (tmp_path / "mine.py").write_text(GOOD)

    def invoke(*arguments, files=("mine.py",)):
        options = [item for name in files for item in ("--plugin", str(tmp_path / name))]
        return CliRunner().invoke(command, [*arguments, *options], catch_exceptions=True)

    return invoke


def test_list_is_a_table_with_notes(run):
    done = run("list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["kind", "name", "plugin", "summary"]
    assert lines[1].split()[:2] == ["encoder", "mine.net"]
    assert lines[2].split()[:2] == ["objective", "mine.thing"] and lines[2].endswith("A thing.")
    own = {tuple(line.split()[2:4]) for line in lines[3:-1]}
    assert own == {("vtp-core", version("vtp-core"))}  # the core's own are always there
    assert lines[-1].startswith("note: mine (") and "printed" in lines[-1]


def test_list_of_one_kind(run):
    assert [line.split()[1] for line in run("list", "--kind", "objective").stdout.splitlines()[1:2]] == [
        "mine.thing"
    ]


def test_list_as_json_is_json_whatever_plugins_print(run, tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module_here")
    listing = json.loads(run("list", "--json", files=("mine.py", "bad.py")).stdout)
    names = [item["name"] for item in listing["components"] if item["plugin"] != "core"]
    assert names == ["mine.net", "mine.thing"]
    assert listing["plugins"][0]["notices"] == ["printed to standard output (sent to standard error)"]
    assert "no_such_module_here" in listing["failures"][0]["reason"]
    assert listing["failures"][0]["traceback"].startswith("Traceback")


def test_a_failure_is_shown_and_fails_only_if_strict(run, tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module_here")
    done = run("list", files=("bad.py",))
    assert (
        done.exit_code == 0 and "failed: plugin bad" in done.stdout and "no_such_module_here" in done.stdout
    )
    strict = run("list", "--strict", files=("bad.py",))
    assert isinstance(strict.exception, UsageError) and "--strict" in str(strict.exception)
    assert run("list", "--strict").exit_code == 0


def test_show_prints_the_keys(run):
    done = run("show", "mine.thing")
    assert done.exit_code == 0
    assert "objective mine.thing: A thing." in done.stdout and 'use = "mine.thing"' in done.stdout
    assert "size: integer = 3\n      How large." in done.stdout
    assert "weight: number | schedule = 1.0" in done.stdout
    assert "no keys of its own" in run("show", "mine.net").stdout


def test_show_as_json(run):
    shown = json.loads(run("show", "mine.thing", "--json").stdout)
    assert shown["kind"] == "objective" and shown["target"] == "nowhere:Thing"
    assert shown["keys"][0] == {
        "key": "size",
        "type": "integer",
        "required": False,
        "default": 3,
        "doc": "How large.",
    }


def test_show_of_an_unknown_name_suggests_one(run):
    done = run("show", "mine.thin")
    assert isinstance(done.exception, UsageError) and 'did you mean "mine.thing"?' in str(done.exception)
    done = run("show", "adam")
    assert isinstance(done.exception, UsageError) and 'did you mean "adamw"?' in str(done.exception)
    done = run("show", "xyz")
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == 'unknown objective "xyz": there are mine.thing'
