"""The command line: what it prints, its exit codes, and that it starts without torch."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from vtp_core.cli.main import COMMANDS, main
from vtp_core.cli.output import table
from vtp_core.errors import VtpError
from vtp_core.recipe import load_recipe
from vtp_core.recipe.shipped import shipped_recipes

RECIPE = """\
[run]
steps = "many"
stpes = 1

[data.source]
use = "image_folder"
path = "somewhere"

[views.image]
rows = 8
size = 32
augment = "crop"

[encoder]
use = "vit"
preset = "nano"
patch = 8

[bottleneck]
use = "linear"

[decoder]
use = "vit"
preset = "nano"

[objectives.l1]
use = "l1"
view = "image"
rows = 16

[objectives.far]
use = "faraway.loss"

[optimizer]
lr = 1e-3
"""


def vtp(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_four_mistakes_give_four_lines_and_exit_code_2() -> None:
    Path("bad.toml").write_text(RECIPE, "utf-8")
    result = vtp("validate", "bad.toml")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = [line.split(maxsplit=2) for line in result.stderr.splitlines()]
    assert [line[:2] for line in lines[:-1]] == [
        ["bad.toml:2", "run.steps"],
        ["bad.toml:3", "run.stpes"],
        ["bad.toml:29", "objectives.l1.rows"],
        ["bad.toml:32", "objectives.far.use"],
    ]
    assert "vtp-plugin-faraway" in lines[3][2]
    assert result.stderr.endswith("4 errors; nothing was started.\n")


def test_a_right_recipe_is_said_to_be_so() -> None:
    text = RECIPE.replace('"many"\nstpes = 1', "5").replace("rows = 16", "").replace("faraway.loss", "l2")
    Path("good.toml").write_text(text.replace('use = "l2"', 'use = "l2"\nview = "image"'), "utf-8")
    result = vtp("validate", "good.toml", "--world-size", "4", "-s", "run.steps=7")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "good.toml is valid: good, 7 steps, 1 view, 2 objectives, world size 4\n"
    assert "8 is not divisible by world size 3" in vtp("validate", "good.toml", "--world-size", "3").stderr
    shown = vtp("show", "good.toml", "--sources")
    assert shown.exit_code == 0
    assert tomllib.loads(shown.stdout)["run"]["steps"] == 5
    assert "steps = 5  # good.toml:2\n" in shown.stdout


def test_a_loose_file_brings_a_component() -> None:
    Path("own.py").write_text(
        "from vtp_core.plugins import hookimpl\n"
        "vtp_api = 2\n"
        "class Thin: pass\n"
        "@hookimpl\n"
        "def register_bottlenecks(register):\n"
        "    register('thin', 'own:Thin', summary='thin')\n",
        "utf-8",
    )
    text = RECIPE.replace('"many"\nstpes = 1', "5").replace("rows = 16", "").replace('"linear"', '"own.thin"')
    Path("r.toml").write_text(text.partition("[objectives.far]")[0] + "[optimizer]\nlr = 1\n", "utf-8")
    assert "own" in vtp("validate", "r.toml").stderr
    assert vtp("validate", "r.toml", "--plugin", "own.py").exit_code == 0
    assert "own.thin" in vtp("schema", "--plugin", "own.py").stdout


def test_a_broken_loose_file_is_refused_by_every_command_but_the_list() -> None:
    Path("own.py").write_text("import no_such_module_here\n", "utf-8")
    for command in (
        ("validate", "quickstart"), ("run", "quickstart"), ("plan", "quickstart"), ("show", "quickstart"),
        ("plugins", "show", "clip"),
    ):  # fmt: skip
        result = vtp(*command, "--plugin", "own.py")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--plugin own.py: failed to load: ModuleNotFoundError" in result.stderr
        assert "no_such_module_here" in result.stderr and len(result.stderr.splitlines()) == 1
    listed = vtp("plugins", "list", "--plugin", "own.py")
    assert listed.exit_code == 0 and "failed: plugin own (own.py)" in listed.stdout


def test_shipped_recipes_are_listed_copied_and_never_overwritten() -> None:
    listed = vtp("recipes", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[:3]] == ["To", "quickstart", "quickstart_gan"]
    assert "smoke/" not in listed and "smoke/vtp_s " in vtp("recipes", "list", "--all").stdout
    rows = json.loads(vtp("recipes", "list", "--all", "--json").stdout)
    assert sorted(row["name"] for row in rows) == sorted(shipped_recipes())
    copied = vtp("recipes", "copy", "quickstart", "mine")
    assert (copied.exit_code, copied.stdout) == (0, "mine/quickstart.toml\n")
    Path("mine/quickstart.toml").write_text("changed", "utf-8")
    again = vtp("recipes", "copy", "quickstart", "mine")
    assert (again.exit_code, again.stderr) == (
        2,
        "error: mine/quickstart.toml exists; remove it or choose another folder\n",
    )
    assert Path("mine/quickstart.toml").read_text("utf-8") == "changed"
    assert 'did you mean the shipped recipe "quickstart"?' in vtp("recipes", "copy", "quikstart").stderr
    assert vtp("recipes", "copy", "zzz").stderr.endswith("; see `vtp recipes list`\n")


def test_problems_and_recipes_as_json() -> None:
    Path("bad.toml").write_text(RECIPE, "utf-8")
    result = vtp("validate", "bad.toml", "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    said = json.loads(result.stdout)
    assert said["valid"] is False
    places = [(it["file"], it["line"], it["key"]) for it in said["problems"]]
    assert places[:2] == [("bad.toml", 2, "run.steps"), ("bad.toml", 3, "run.stpes")]
    right = vtp("validate", "quickstart", "--json")
    assert json.loads(right.stdout) == {"valid": True, "name": "quickstart", "problems": []}
    shown = json.loads(vtp("show", "quickstart", "--json").stdout)
    assert shown == load_recipe("quickstart").model_dump(mode="json", by_alias=True)


def test_the_schema_is_json() -> None:
    assert "properties" in json.loads(vtp("schema").stdout)


def test_an_unknown_command_and_an_unknown_option() -> None:
    result = vtp("valdate")
    assert result.exit_code == 2
    assert 'no command "valdate"; did you mean "validate"?' in result.stderr
    assert vtp("validate").exit_code == 2
    assert vtp("validate", "--nope", "x").exit_code == 2


class Wrong(VtpError):
    exit_code = 5


def failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("doctor", callback=fail)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Wrong("first\nsecond"), 5, "error: first second\n"),
        (ValueError("a b"), 1, "internal error: ValueError: a b at "),
        (KeyError(), 1, "internal error: KeyError"),
        (FileNotFoundError(2, "No such", "a.bin"), 74, "error: a.bin: No such; check the path and its perm"),
        (
            OSError(28, "No space left on device"),
            74,
            "error: No space left on device; make room\n",
        ),
        (OSError(12, "Cannot allocate memory"), 71, "error: the system refused a request: Cannot allocate "),
        (BlockingIOError(11, "Try again"), 71, "error: the system refused a request: Try again; lower data."),
        (OSError(24, "Too many", "a.bin"), 74, "error: a.bin: Too many; raise the limit on open files"),
        (OSError(9, "Bad"), 71, "error: the system refused a request: Bad; vtp --debug shows where\n"),
        (OSError("no errno"), 1, "internal error: OSError: no errno at "),
        (RuntimeError("can't start new thread"), 71, "error: the system refused a request: can't start new "),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: of 9 GB"),
            71,
            "error: memory ran out: Def",
        ),
        (MemoryError("of 3 TiB"), 71, "error: memory ran out: of 3 TiB; compute fewer rows at a time"),
        (torch.OutOfMemoryError("CUDA"), 71, "error: memory ran out: CUDA; compute fewer rows at a time"),
    ],
)
def test_an_error_is_one_line_unless_debug_asks_for_more(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, text: str
) -> None:
    monkeypatch.setattr("vtp_core.cli.doctor.doctor", failing(error))
    result = vtp("doctor")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(text)
    assert result.stderr.count("\n") == 1
    assert vtp("--debug", "doctor").exception is error


def test_an_exception_of_another_base_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_core.cli.doctor.doctor", failing(BaseException("at the base")))
    result = vtp("doctor")
    assert result.exit_code == 1 and result.stderr.startswith(
        "internal error: BaseException: at the base at "
    )
    with pytest.raises(BaseException, match="at the base"):
        vtp("--debug", "doctor")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_exists_and_its_line_of_help_is_short(name: str) -> None:
    place, summary = COMMANDS[name]
    module, _, attribute = place.partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)
    assert len(summary) < 72
    assert summary.endswith(".")
    assert vtp(name, "--help").exit_code == 0


def test_a_command_of_a_loose_file_is_called(tmp_path: Path) -> None:
    plugin = tmp_path / "hello.py"
    plugin.write_text(
        "import click\nimport vtp_core as vtp\n\nvtp_api = 2\n\n\n@click.command()\ndef greet():\n"
        "    click.echo('hello')\n\n\n@vtp.hookimpl\ndef register_commands(register):\n"
        "    register('greet', 'hello:greet', summary='Say hello.')\n"
    )
    assert vtp("--plugin", str(plugin), "hello.greet").stdout == "hello\n"
    assert "hello.greet" in vtp("--plugin", str(plugin), "--help").stdout
    assert vtp("hello.greet").exit_code == 2


def test_help_lists_all_commands_in_order() -> None:
    listed = vtp("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed[: len(COMMANDS)]] == list(COMMANDS)


def test_a_plugin_adds_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from vtp_core.plugins import Plugins, Register, hookimpl

    @hookimpl
    def register_commands(register: Register) -> None:
        register("hello", click.Command("hello", callback=lambda: click.echo("hi")), summary="Greets.")

    plugins = Plugins()
    plugins.add(SimpleNamespace(vtp_api=2, register_commands=register_commands), "polite")
    monkeypatch.setattr("vtp_core.plugins.load_plugins", lambda _: plugins)
    assert vtp("polite.hello").stdout == "hi\n"
    assert "Commands of plugins:\n  polite.hello  Greets.\n" in vtp("--help").stdout
    assert vtp("polite.nothing").exit_code == 2


# Commands that must answer before torch could be imported.
LIGHT = [
    "--help",
    "--version",
    "validate quickstart",
    "show quickstart",
    "recipes list",
    "schema",
    "plugins list",
]


@pytest.mark.parametrize("arguments", LIGHT)
def test_no_torch_is_imported(arguments: str) -> None:
    code = (
        "import sys\n"
        "from vtp_core.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'open_clip', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    run = [sys.executable, "-W", "error", "-c", code, *arguments.split()]
    result = subprocess.run(run, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_it_is_a_module_too() -> None:
    result = subprocess.run([sys.executable, "-m", "vtp_core", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.split(", ")[0]) == (0, "vtp")


def test_tables_are_aligned() -> None:
    assert table([("a", "bb", "c"), ("aaa", "b", "")]) == "a    bb  c\naaa  b"
    assert table([]) == ""


@pytest.mark.parametrize("arguments", [["--version"], ["schema", "--help"]])
def test_a_full_disk_at_standard_output_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vtp_core", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 74 and done.stderr == "error: No space left on device; make room\n"
