"""What is refused is refused before torch is imported, in one line that says what to do."""

import json
import os
import subprocess
import sys

import pytest

from vtp_core.plugins import load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.run.processes.lock import locked
from vtp_core.run.records import RunFolder
from vtp_core.training.saving.manifest import Manifest

# Every command line runs in one process in which an import of torch is an error.
CALLS = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise AssertionError("torch is imported")

sys.meta_path.insert(0, Blocked())
from click.testing import CliRunner
from vtp_core.cli.main import main

done = [CliRunner().invoke(main, arguments) for arguments in json.load(sys.stdin)]
print(json.dumps([(result.exit_code, result.stdout, result.stderr) for result in done]))
"""

REFUSED = {
    "run nosuch": (2, 'no shipped recipe "nosuch"; see `vtp recipes list`'),
    "run photos": (2, "photos: a folder without resolved.toml, so no run"),
    "run a.toml": (2, "there is no file b.toml"),
    "run quickstart -s run.stepz=1": (2, 'unknown key; did you mean "steps"?'),
    "run quickstart -s run.steps=x": (2, "expected an integer"),
    "run quickstart --nproc 3": (2, "not divisible by world size 3"),
    "run quickstart --plugin no.py": (2, "no.py: no such file"),
    "run quickstart": (2, "runs/quickstart: already holds a run; continue it with --resume"),
    "run runs/quickstart": (2, "runs/quickstart: already holds a run; continue it with --resume"),
    "run quickstart --nproc 2": (2, "already holds a run"),
    "run quickstart -o note.txt": (2, "note.txt is a file; name another folder"),
    "run quickstart -o note.txt/a": (2, "note.txt is a file; name another folder"),
    "run quickstart quickstart -o a": (2, "both write to a"),
    "run quickstart -o a -s init_from=nowhere": (5, 'no shipped tokenizer "nowhere"'),
    "run quickstart -o a -s init_from=no/where": (5, "init_from: no/where does not exist"),
    'run quickstart -o a -s data.source={use="image_folder",path="gone"}': (3, "gone: no such folder"),
    'run quickstart -o a -s evaluate.source={use="image_folder",path="gone"}': (3, "gone: no such folder"),
    "run quickstart --resume -s run.steps=200": (2, "300 steps are made already, run.steps is 200; raise it"),
    "run quickstart --resume -s encoder.width=96": (5, "192 -> 96): go on with its own (vtp run runs/q"),
    "run quickstart -o busy": (2, "busy: another run holds this folder (process "),
    "run quickstart --nproc 2 -o busy": (2, "busy: another run holds this folder (process "),
    "encode new photos -o a.safetensors": (5, "format_version 99, this installation reads 1; upgrade"),
    "validate nosuch": (2, "no shipped recipe"),
    "show nosuch": (2, "no shipped recipe"),
    "plan nosuch": (2, "no shipped recipe"),
    "recipes copy nosuch": (2, "no shipped recipe"),
    "data check nosuch": (3, "nosuch: no such file or folder"),
    "eval nosuch": (5, 'no shipped tokenizer "nosuch"; shipped: vtp-nano'),
    "eval vtp-nana": (5, 'did you mean "vtp-nano"?'),
    "eval quickstart": (5, "did you mean the run runs/quickstart?"),
    "eval vtp_abl_b": (5, "is a recipe: train it with `vtp run vtp_abl_b`"),
    "eval no/such": (5, "no tokenizer here (no such folder)"),
    "eval empty": (5, "no tokenizer here (no files)"),
    "eval note.txt": (5, "no tokenizer here (a file)"),
    "eval runs/quickstart": (5, "no tokenizer yet; go on with `vtp run runs/quickstart --resume`"),
    "eval vtp-nano --source nosuch": (2, 'unknown source "nosuch"'),
    "eval vtp-nano --source image_folder": (2, "source image_folder: path: missing"),
    'eval vtp-nano --source {use="image_folder",path="gone"}': (3, "gone: no such folder"),
    "eval vtp-nano --evaluator nosuch": (2, 'unknown evaluator "nosuch"'),
    "eval vtp-nano --device gpu": (2, "--device gpu: unknown; use cpu, cuda or cuda:1"),
    "eval vtp-nano -o photos": (2, "--output photos: is a folder; name a file"),
    "encode nosuch photos -o a.safetensors": (5, "no shipped tokenizer"),
    "encode vtp-nano gone.png -o a.safetensors": (3, "gone.png: no such file or folder"),
    "encode vtp-nano empty -o a.safetensors": (3, "empty: no image with a suffix"),
    "encode vtp-nano photos -o a.npz": (2, "latents are written as .safetensors"),
    "encode vtp-nano photos -o note.txt/a.safetensors": (2, "note.txt is a file"),
    "decode nosuch a.safetensors -o b": (5, "no shipped tokenizer"),
    "decode vtp-nano gone.safetensors -o b": (3, "no such file; `vtp encode` writes one"),
    "decode vtp-nano note.txt -o b": (3, "note.txt: not a latents file"),
    "decode vtp-nano note.txt -o note.txt": (2, "note.txt is a file"),
    "export nosuch a": (5, "no shipped tokenizer"),
    "export empty a": (5, "no tokenizer here"),
    "export vtp-nano note.txt": (2, "note.txt is a file"),
    "export vtp-nano photos": (2, "photos: holds something other than a tokenizer; choose another folder"),
    "export vtp-nano a --format nosuch": (2, 'unknown format "nosuch"'),
    "export vtp-nano a --format vtp --storage int8": (2, "has its own storage"),
    "export vtp-nano a --weights teacher": (2, "holds no teacher; give the run folder"),
    "report nosuch": (2, "nosuch: no such folder"),
    "report empty": (2, "not a run folder"),
    "report runs/quickstart -o photos": (2, "is a folder; name a file"),
    "kernels tune --device gpu": (2, "--device gpu: unknown"),
    "bench nearest_code --device gpu": (2, "--device gpu: unknown"),
    "bench nearest_code --json photos": (2, "--json photos: is a folder"),
}  # fmt: skip
"""Command line -> exit code and words, in a folder with a run of 300 steps in ``runs/quickstart``."""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Command line -> exit code, standard output and error."""
    root = tmp_path_factory.mktemp("new")
    recipe = load_recipe("quickstart", plugins=load_plugins())
    run = root / "runs" / "quickstart"
    for step in (200, 300):
        checkpoint = run / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        data = recipe.model_dump(mode="json", by_alias=True)
        Manifest(step=step, files={}, recipe=data, world_size=1, nonfinite=None, versions={}).write(
            checkpoint
        )
    (run / "resolved.toml").write_text(dump_toml(recipe))
    for name in ("empty", "photos"):
        (root / name).mkdir()
    for name in ("note.txt", "photos/a.png"):
        (root / name).write_text("not an image")
    (root / "a.toml").write_text('extends = "b.toml"\n')
    (root / "new").mkdir()
    (root / "new" / "config.json").write_text('{"format": "vtp-tokenizer", "format_version": 99}')
    calls = [line.split() for line in REFUSED]
    with locked(RunFolder(root / "busy")):
        done = subprocess.run(
            [sys.executable, "-c", CALLS], input=json.dumps(calls), capture_output=True, text=True, cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = sorted(str(path.relative_to(root)) for path in root.iterdir())
    assert left == ["a.toml", "empty", "new", "note.txt", "photos", "runs"]
    return dict(zip(REFUSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("line", REFUSED)
def test_a_refusal_needs_no_torch(refusals: dict[str, tuple[int, str, str]], line: str) -> None:
    code, out, error = refusals[line]
    assert (code, out) == (REFUSED[line][0], ""), error
    assert REFUSED[line][1] in error
    lines = error.splitlines()
    assert len(lines) == 1 or lines[-1].endswith("nothing was started.")
