"""Plugins that end or hang their process: named, and survived by the commands that list plugins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vtp_core import installation
from vtp_core.errors import UsageError
from vtp_core.plugins import Diagnosis, load_plugins, trial, watch

GOOD = """
from vtp_core.plugins import hookimpl
vtp_api = 2

@hookimpl
def register_objectives(register):
    register("thing", "nowhere:Thing", summary="A thing.")
"""
NATIVE_EXIT = "import ctypes; ctypes.CDLL(None)._exit(0)"
DIAGNOSTIC = """
from vtp_core.plugins import hookimpl
vtp_api = 2

def diagnose():
    {body}

@hookimpl
def register_diagnostics(register):
    register("check", diagnose)
"""


@pytest.mark.parametrize("place", ["import", "hook"])
def test_a_plugin_that_calls_os_exit_is_listed_and_stops_nothing(site, place):
    code = "import os\nfrom os import _exit\n" + GOOD
    site("ends", f"{code}_exit(0)\n" if place == "import" else f"{code}    os._exit(0)\n")
    site("good", GOOD)
    plugins = load_plugins(only=["ends", "good"])
    assert plugins.find("objective", "good.thing")
    (failure,) = plugins.failures
    assert failure.reason == "ProcessEnd: it called os._exit(0)" and failure.plugin == "ends"


def test_a_component_and_a_diagnostic_that_call_os_exit_are_errors(site):
    site("ends", GOOD.replace("nowhere:", "ends_target:"))
    site("unused", "import os; os._exit(0)", module="ends_target")
    with pytest.raises(UsageError, match=r'"ends.thing" of vtp-plugin-ends 0.2.*it called os._exit\(0\)'):
        load_plugins(only=["ends"]).find("objective", "ends.thing").load_target()
    site("sick", DIAGNOSTIC.format(body="import os; os._exit(0)"))
    from vtp_core.plugins import diagnose

    with pytest.raises(UsageError, match=r"it called os._exit\(0\)"):
        diagnose(load_plugins(only=["sick"]).find("diagnostic", "sick.check"))


def test_processes_that_a_plugin_forks_may_end_and_later_calls_too(site):
    code = (
        "import os\nexit = os._exit\nprocess = os.fork()\nif process == 0:\n    os._exit(7)\n"
        "status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])\nassert status == 7, status\n"
    )
    site("forks", code + GOOD)
    before = os._exit
    plugins = load_plugins(only=["forks"])
    assert plugins.failures == [] and os._exit is before
    kept = sys.modules["test_plugin_forks"].exit
    process = os.fork()
    if process == 0:
        kept(9)  # after loading it is the real one, in this process too
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def test_a_plugin_that_takes_long_is_named(site, capsys, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.01)
    site("slow", "import time; time.sleep(0.5)\n" + GOOD)
    assert load_plugins(only=["slow"]).failures == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plugin slow (vtp-plugin-slow 0.2) has been loading for 0.01 s: Ctrl-C ends")


def test_the_cores_own_plugins_are_not_watched(site, capsys, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.01)
    site("slow", "import time; time.sleep(0.5)\n" + GOOD, distribution="vtp-core", version="9.9")
    assert load_plugins(only=["slow"]).failures == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [NATIVE_EXIT, "import ctypes; ctypes.string_at(0)"])
def test_a_plugin_whose_native_code_ends_the_process_is_named(tmp_path, code):
    file = tmp_path / "ends.py"
    file.write_text(code)
    load = f"from vtp_core.plugins import load_plugins; load_plugins([{str(file)!r}], only=[])"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True)
    assert done.stderr == f"vtp ended while this was loading: plugin ends ({file})\n"


def test_plugins_that_end_their_process_in_any_way_are_listed(site, tmp_path):
    """What os._exit is to Python, exit, signals and crashes are to native code."""
    site("leaves", NATIVE_EXIT)
    site("sick", DIAGNOSTIC.format(body=NATIVE_EXIT))
    site("fails", "raise BaseException('at the base')")
    site("good", GOOD)
    file = tmp_path / "killed.py"
    file.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    plugins = load_plugins(
        [file], only=["leaves", "sick", "fails", "good"], record_broken_files=True, try_first="diagnostics"
    )
    assert [plugin.name for plugin in plugins] == ["good"]
    assert {failure.plugin: failure.reason for failure in plugins.failures} == {
        "fails": "BaseException: at the base",
        "killed": "it ended its process while loading (signal 9, Killed)",
        "leaves": "it ended its process while loading (exit code 0)",
        "sick": "it ended its process while running its diagnostics (exit code 0)",
    }


def test_a_plugin_that_hangs_is_listed(site, monkeypatch):
    monkeypatch.setattr(trial, "LOADING", 1.0)
    site("hangs", "import time; time.sleep(1000)")
    plugins = load_plugins(only=["hangs"], try_first="loading")
    assert [failure.reason for failure in plugins.failures] == ["it was still loading after 1 s"]


def test_a_diagnostic_that_hangs_is_listed(site, monkeypatch):
    monkeypatch.setattr(trial, "DIAGNOSTICS", 1.0)  # of which loading has 20
    site("hangs", DIAGNOSTIC.format(body="import time; time.sleep(1000)"))
    plugins = load_plugins(only=["hangs"], try_first="diagnostics")
    reasons = [failure.reason for failure in plugins.failures]
    assert reasons == ["it was still running its diagnostics after 1 s"]


def test_doctor_loads_no_plugin_that_failed_the_trial(site, monkeypatch):
    """The diagnostic of the kernels loads all plugins once more."""
    monkeypatch.setattr(trial, "LOADING", 1.0)
    site("hangs", "import time; time.sleep(1000)")
    monkeypatch.setenv("VTP_PLUGINS", "vit,kernels,hangs")
    facts = installation.examine()
    assert [item["plugin"] for item in facts["plugins"]["ok"]] == ["kernels", "vit"]
    assert [item["reason"] for item in facts["plugins"]["failed"]] == ["it was still loading after 1 s"]
    assert "kernels" in facts["diagnostics"] and os.environ["VTP_PLUGINS"] == "vit,kernels,hangs"


def test_a_kernel_whose_import_ends_the_process_is_listed(site):
    site("fast", GOOD.replace("objectives", "kernels").replace("nowhere:", "fast_kernel:"))
    site("unused", NATIVE_EXIT, module="fast_kernel")
    (failure,) = load_plugins(only=["fast"], try_first="diagnostics").failures
    assert failure.reason == "it ended its process while running its diagnostics (exit code 0)"


def test_without_plugins_of_others_no_process_is_started(monkeypatch):
    monkeypatch.setattr(trial.subprocess, "Popen", None)
    plugins = load_plugins(only=["clip"], try_first="diagnostics")
    assert [plugin.name for plugin in plugins] == ["clip"] and plugins.failures == []


def test_a_diagnosis_is_a_diagnosis(site):
    site("well", DIAGNOSTIC.format(body="from vtp_core.plugins import Diagnosis; return Diagnosis()"))
    plugins = load_plugins(only=["well"], try_first="diagnostics")
    assert plugins.failures == [] and plugins.find("diagnostic", "well.check").load_target()() == Diagnosis()
