"""Finding plugins: entry points of (written, not installed) packages and loose files, one broken or many."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy
import pytest
import torch

from vtp_core.errors import UsageError
from vtp_core.plugins import UnknownComponent, load_plugins
from vtp_core.plugins.version import module_file, stated_version

GOOD = """
from vtp_core.plugins import hookimpl
vtp_api = 2

@hookimpl
def register_objectives(register):
    register("thing", "nowhere:Thing", summary="A thing.")
"""


def test_an_installed_plugin_is_found_with_its_package(site):
    site("zeta", GOOD)
    plugins = load_plugins(only=["zeta"])
    item = plugins.find("objective", "zeta.thing")
    assert (item.plugin, item.distribution, item.version) == ("zeta", "vtp-plugin-zeta", "0.2")
    assert plugins.failures == []


def test_the_distribution_vtp_core_comes_through_the_same_door_with_bare_names(site):
    site("zeta", GOOD, distribution="vtp_core", version="9.9")
    item = load_plugins(only=["zeta"]).find("objective", "thing")
    assert (item.distribution, item.version) == ("vtp-core", "9.9")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("vtp_api = (", "SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("raise BaseException('at the base')", "BaseException: at the base"),
        ("class Odd(BaseException): pass\nraise Odd('of its own')", "Odd: of its own"),
        (GOOD + "    raise GeneratorExit\n", "GeneratorExit"),
        (GOOD.replace("vtp_api = 2", ""), "it does not state its API version"),
        (GOOD.replace("vtp_api = 2", "vtp_api = 7"), "vtp_api 7, this vtp-core has 2; upgrade vtp-core"),
        (GOOD.replace("register_objectives", "register_objetives"), "did you mean register_objectives?"),
        (GOOD + "    raise ValueError('in the hook')\n", "ValueError: in the hook"),
        (GOOD + "    register('thing', 'nowhere:Thing')\n", "is registered twice"),
    ],
)
def test_a_broken_plugin_is_listed_and_stops_nothing(site, code, reason):
    site("bad", code)
    site("good", GOOD)
    plugins = load_plugins(only=["bad", "good"])
    assert plugins.find("objective", "good.thing")
    (failure,) = plugins.failures
    assert (failure.plugin, failure.distribution, failure.version) == ("bad", "vtp-plugin-bad", "0.2")
    assert reason in failure.reason and "\n" not in failure.reason
    assert failure.traceback.startswith("Traceback") or "SyntaxError" in failure.traceback
    with pytest.raises(UnknownComponent, match=r"plugin bad \(vtp-plugin-bad 0\.2\) failed to load: "):
        plugins.find("objective", "bad.thing")


OLD = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from vtp_core.recipe.component import ObjectiveConfig
from vtp_core.plugins import hookimpl

vtp_api = 1
"""
REFUSED = (
    "it is written for vtp_api 1, this vtp-core has 2; upgrade the plugin, or change it and that line: "
    'since then modules moved; "import vtp_core as vtp" has every interface (docs/decisions/008)'
)


@pytest.mark.parametrize("module", ["old_plugin", "old_package.plugin"])
def test_an_old_installed_plugin_is_refused_by_its_version_and_not_run(site, tmp_path, module):
    (tmp_path / "old_package").mkdir()
    (tmp_path / "old_package" / "__init__.py").write_text("import vtp_core.recipe.component")
    site("old", OLD, module=module)
    (failure,) = load_plugins(only=["old"]).failures
    assert failure.reason == REFUSED
    assert not list(tmp_path.rglob("*.ran")) and "old_package" not in sys.modules


def test_an_old_file_is_refused_by_its_version_and_not_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OLD)
    with pytest.raises(UsageError) as caught:
        load_plugins([file], only=[])
    assert str(caught.value) == f"--plugin {file}: failed to load: {REFUSED}"
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.parametrize(
    ("source", "stated"),
    [
        ("vtp_api = 1", 1),
        ("vtp_api: int = 3", 3),
        ("import nowhere\nvtp_api = other = 4\n", 4),
        ("vtp_api = 1\nvtp_api = 2\n", 2),
        ("# -*- coding: latin-1 -*-\nname = '\xe9'\nvtp_api = 1\n", 1),
        ("vtp_api = '1'", "1"),
        ("vtp_api: int", None),
        ("vtp_api = version()", None),
        ("def f():\n    vtp_api = 1\n", None),
        ("vtp_api = (", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_the_source(tmp_path, source, stated):
    (tmp_path / "plugin.py").write_bytes(source.encode("latin-1"))
    assert stated_version(tmp_path / "plugin.py") == stated
    assert stated_version(tmp_path / "absent.py") is None


def test_a_version_that_the_source_does_not_state_is_checked_after_the_import(site):
    site("computed", GOOD.replace("vtp_api = 2", "vtp_api = 2 - 1"))
    (failure,) = load_plugins(only=["computed"]).failures
    assert failure.reason == REFUSED


def test_a_module_is_found_without_running_its_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("broken_package", "broken_package/inner", "namespace_package"):
        (tmp_path / path).mkdir()
    (tmp_path / "broken_package/__init__.py").write_text("raise RuntimeError")
    for path in (
        "broken_package/inner/__init__.py",
        "broken_package/inner/deep.py",
        "namespace_package/a.py",
    ):
        (tmp_path / path).touch()
    assert module_file("broken_package.inner.deep") == tmp_path / "broken_package/inner/deep.py"
    assert module_file("broken_package.inner") == tmp_path / "broken_package/inner/__init__.py"
    assert module_file("namespace_package.a") == tmp_path / "namespace_package/a.py"
    for name in (
        "no_such_module_here",
        "no_such_module_here.a",
        "broken_package.inner:deep",
        "math",
        "json.a.b",
    ):
        assert module_file(name) is None


def test_keyboard_interrupt_is_not_swallowed(site):
    site("bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins(only=["bad"])


def test_a_name_that_two_packages_claim_means_nothing(site):
    site("twin", GOOD, distribution="vtp-plugin-twin")
    site("twin", GOOD, distribution="another-twin", version="3", module="other_twin")
    plugins = load_plugins(only=["twin"])
    assert list(plugins) == []
    assert [item.distribution for item in plugins.failures] == ["another-twin", "vtp-plugin-twin"]
    assert all("another-twin 3 and vtp-plugin-twin 0.2" in item.reason for item in plugins.failures)


def test_a_package_that_claims_a_built_in_name_does_not_break_it(site):
    site("twin", GOOD, distribution="a-rival", module="rival_twin")
    site("twin", GOOD, distribution="vtp-core", version="9.9")
    plugins = load_plugins(only=["twin"])
    assert [item.name for plugin in plugins for item in plugin.components] == ["thing"]
    (failure,) = plugins.failures
    assert failure.distribution == "a-rival" and "vtp-core 9.9" in failure.reason


def test_selection_by_argument_and_by_environment(site, monkeypatch):
    site("one", GOOD)
    site("two", GOOD)
    assert [plugin.name for plugin in load_plugins(only=["two"])] == ["two"]
    monkeypatch.setenv("VTP_PLUGINS", " one, two ,")
    plugins = load_plugins()
    assert [plugin.name for plugin in plugins] == ["one", "two"]
    monkeypatch.setenv("VTP_PLUGINS", "")
    plugins = load_plugins()
    assert list(plugins) == [] and {"one", "two"} <= set(plugins.left_out)
    with pytest.raises(UnknownComponent, match="VTP_PLUGINS"):
        plugins.find("objective", "one.thing")
    assert [plugin.name for plugin in load_plugins(only=["one"])] == ["one"]  # the argument wins


def test_a_selected_name_that_is_not_installed_is_a_failure():
    plugins = load_plugins(only=["never_installed"])
    assert [item.plugin for item in plugins.failures] == ["never_installed"]
    assert "no installed package" in plugins.failures[0].reason


def test_order_is_built_ins_first_then_by_name(site):
    for name in ("one", "two", "three"):
        site(name, GOOD)
    site("zeta", GOOD, distribution="vtp-core", version="9.9")
    assert [plugin.name for plugin in load_plugins(only=["two", "zeta", "one", "three"])] == [
        "zeta",
        "one",
        "three",
        "two",
    ]


def test_loose_files_with_classes_and_strings(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from vtp_core.config import ObjectiveConfig\n"
        "class Config(ObjectiveConfig):\n    size: int = 3\n"
        + GOOD
        + "    register('other', 'nowhere:Other', config=Config)\n"
        + "    register('third', 'nowhere:Other', config=f'{__name__}:Config')\n"
    )
    plugins = load_plugins([file], only=[])
    assert plugins.find("objective", "mine.thing").distribution == str(file)
    assert plugins.find("objective", "mine.other").load_config()(use="mine.other").size == 3
    assert plugins.find("objective", "mine.third").load_config()(use="mine.third").size == 3


def test_import_strings_of_a_loose_file_may_name_the_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from vtp_core.plugins import hookimpl\n"
        "from vtp_core.config import ComponentConfig\n"
        "vtp_api = 2\n"
        "class C(ComponentConfig):\n    size: int = 3\n"
        "class N: pass\n"
        "@hookimpl\n"
        "def register_sources(register):\n    register('n', 'mine:N', config='mine:C')\n"
    )
    item = load_plugins([file], only=[]).find("source", "mine.n")
    assert item.load_config()(use="mine.n").size == 3
    assert item.load_target().__name__ == "N" and "mine" not in sys.modules
    file.write_text(file.read_text().replace("mine:N", "mine:M"))
    with pytest.raises(UsageError, match='target of source "n" is "mine:M", but the file has no M'):
        load_plugins([file], only=[])


def test_a_broken_or_missing_loose_file_is_an_error_unless_it_is_to_be_listed(tmp_path):
    file = tmp_path / "mine.py"
    for code, reason in (("import no_such_module_here", "no_such_module_here"), ("exit(3)", "SystemExit: 3")):
        file.write_text(code)
        with pytest.raises(UsageError) as caught:
            load_plugins([str(file)], only=[])
        assert str(file) in str(caught.value) and reason in str(caught.value)
    (failure,) = load_plugins([file], only=[], record_broken_files=True).failures
    assert failure.plugin == "mine" and "SystemExit: 3" in failure.reason
    assert "vtp_loose_mine" not in sys.modules
    with pytest.raises(UsageError, match="no such file"):
        load_plugins([tmp_path / "absent.py"], only=[])


def test_a_loose_file_may_not_take_an_installed_name(site, tmp_path):
    site("zeta", GOOD)
    file = tmp_path / "zeta.py"
    file.write_text(GOOD)
    with pytest.raises(UsageError, match="two plugins are called"):
        load_plugins([file], only=["zeta"])
    plugins = load_plugins([file], only=["zeta"], record_broken_files=True)
    assert plugins.find("objective", "zeta.thing").distribution == "vtp-plugin-zeta"
    assert "two plugins are called" in plugins.failures[0].reason and str(file) in plugins.failures[0].reason


RUDE = """
import random, sys
import numpy
import torch

def disturb():
    print("hello from a plugin")
    random.seed(5)
    numpy.random.seed(5)
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
"""


@pytest.mark.parametrize("place", ["import", "hook", "target", "config"])
def test_prints_and_random_state_do_not_leak(site, capsys, place):
    code = RUDE + GOOD.replace("nowhere:", "rude_target:").replace(
        "summary=", "config='rude_target:C', summary="
    )
    call = "disturb()\n"
    if place == "import":
        code += call
    elif place == "hook":
        code = code.replace('    register("thing"', f'    {call}    register("thing"')
    site("rude", code)
    target = RUDE + (call if place in ("target", "config") else "") + "class Thing: pass\nclass C: pass\n"
    site("unused", target, module="rude_target")

    def draw():
        return (
            random.random(),
            numpy.random.rand(),
            torch.rand(2).tolist(),
            torch.get_default_dtype(),
        )

    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.set_rng_state(states[2])
    plugins = load_plugins(only=["rude"])
    item = plugins.find("objective", "rude.thing")
    if place == "target":
        with pytest.raises(UsageError):
            item.load_target()
    if place == "config":
        with pytest.raises(UsageError):
            item.load_config()
    assert draw() == expected
    printed = capsys.readouterr()
    assert printed.out == "" and "hello from a plugin" in printed.err
    if place in ("import", "hook"):
        (plugin,) = plugins
        assert [note.split()[0] for note in plugin.notices] == ["printed"] + ["changed"] * 4


WRITES = """
import ctypes, os, subprocess, sys
os.write(1, b"to the descriptor ")
sys.__stdout__.write("to the first stream ")
subprocess.run(["echo", "from a child"])
ctypes.CDLL(None).puts(b"from C")
"""


def test_what_is_written_to_the_descriptor_does_not_reach_standard_output(site, capfd):
    site("writes", WRITES + GOOD.replace("nowhere:", "writes_target:"))
    site("unused", WRITES + "class Thing: pass\n", module="writes_target")
    print("before")
    item = load_plugins(only=["writes"]).find("objective", "writes.thing")
    with pytest.raises(UsageError, match=r"is not a vtp_core.objective"):
        item.load_target()
    os.write(1, b"after")
    out, err = capfd.readouterr()
    assert out == "before\nafter"
    for words in ("to the descriptor", "to the first stream", "from a child", "from C"):
        assert err.count(words) == 2


@pytest.mark.parametrize("error", ["BaseException('x')", "SystemExit(0)"])
def test_a_component_that_ends_its_import_is_one_error(site, error):
    site("ends", GOOD.replace("nowhere:", "ends_target:"))
    site("unused", f"raise {error}", module="ends_target")
    item = load_plugins(only=["ends"]).find("objective", "ends.thing")
    with pytest.raises(UsageError, match="failed to import: "):
        item.load_target()


def test_a_quiet_plugin_has_no_notices(site):
    site("zeta", GOOD)
    (plugin,) = load_plugins(only=["zeta"])
    assert plugin.notices == ()


def test_importing_and_loading_import_no_torch():
    code = (
        "import sys, vtp_core.plugins, vtp_core.recipe.writing.describe;"
        "import vtp_core.cli.plugins, vtp_plugins.new_plugin.command;"
        "plugins = vtp_core.plugins.load_plugins();"
        "[item.load_config() for item in plugins.components()];"
        "print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
