"""The example plugin: installed by pip from its own folder, it joins the quickstart by a recipe alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "vtp-plugin-ntxent"
RECIPE = EXAMPLE / "quickstart_ntxent.toml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the example; the environment that finds it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "runs"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
    ]
    command += ["--disable-pip-version-check", "--target", str(folder / "lib"), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    paths = os.pathsep.join([str(folder / "lib"), str(REPOSITORY)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def vtp(environment, *arguments):
    command = [sys.executable, "-c", "from vtp_core.cli.main import main; main(prog_name='vtp')", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_it_is_listed_with_its_package(installed):
    listing = json.loads(vtp(installed, "plugins", "list", "--json").stdout)
    (item,) = [item for item in listing["components"] if item["name"] == "ntxent.simclr"]
    assert (item["distribution"], item["version"]) == ("vtp-plugin-ntxent", "0.1.0")
    assert [failure for failure in listing["failures"] if failure["plugin"] == "ntxent"] == []


def test_its_recipe_is_valid_and_adds_two_tables(installed):
    done = vtp(installed, "validate", str(RECIPE))
    assert done.returncode == 0, done.stderr
    assert "7 objectives" in done.stdout


def test_without_the_view_or_the_plugin_the_recipe_says_where(installed):
    done = vtp(installed, "validate", str(RECIPE), "-s", "objectives.ntxent.view=elsewhere")
    assert done.returncode == 2 and "elsewhere" in done.stderr
    done = vtp(installed | {"VTP_PLUGINS": "vit"}, "validate", str(RECIPE))
    assert done.returncode == 2
    assert 'plugin "ntxent" is installed, but VTP_PLUGINS' in done.stderr


@pytest.mark.slow
def test_its_own_tests_pass(installed):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=EXAMPLE, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


PROCESSES = """
from vtp_core.testing import check_objective
from vtp_plugin_ntxent.config import SimclrConfig
from vtp_plugin_ntxent.objective import Simclr
if __name__ == "__main__":
    check_objective(Simclr, SimclrConfig(use="ntxent.simclr", view="pair"), processes=True)
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_gloo_processes_give_the_gradient_of_one(installed, tmp_path):
    (tmp_path / "check.py").write_text(PROCESSES)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "check.py")], env=installed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.weights
def test_it_trains_in_the_quickstarts_joint_step(installed, tmp_path):
    settings = ("run.steps=2", "run.log_every=1", f"run.out={tmp_path / 'run'}", "evaluate.limit=8")
    done = vtp(installed, "run", str(RECIPE), *(f"-s{setting}" for setting in settings))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "samples" in line]
    assert len(lines) == 2
    for line in lines:
        assert {"loss/ntxent/nt_xent", "loss/clip/contrast", "loss/l1/pixels"} <= line.keys()
        assert line["grad_norm/ntxent"] > 0
