"""What an import may pull in: the command line and recipes stay quick, and the layers hold."""

from __future__ import annotations

import graphlib
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "open_clip", "lpips", "transformers", "diffusers")

PROBE = """
import sys
{code}
heavy = sorted(set(sys.modules) & set({heavy!r}))
sys.exit("imported " + ", ".join(heavy) if heavy else 0)
"""

CALL = """
from vtp_core.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
"""

LAYERS = """
from importlinter.cli import lint_imports
raise SystemExit(lint_imports(no_cache=True))
"""


MODULE_TENSORS = """
import importlib, sys
import torch
with torch.device("meta"):
    for name in {names!r}:
        importlib.import_module(name)
found = [
    f"{{module}}.{{key}}"
    for module in {names!r}
    for key, value in vars(sys.modules[module]).items()
    if isinstance(value, torch.Tensor)
]
raise SystemExit(f"tensors of modules: {{found}}" if found else 0)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)


def importing(*names: str) -> str:
    lines = ["import importlib", *(f"importlib.import_module({name!r})" for name in names)]
    return PROBE.format(code="\n".join(lines), heavy=HEAVY)


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    return name.removesuffix(".__init__")


def under_any(pattern: str) -> list[Path]:
    found = sorted(REPOSITORY.glob(pattern))
    assert found, f"nothing matches {pattern}"
    return found


def under(pattern: str) -> list[str]:
    return sorted(module_name(path) for path in under_any(pattern))


def test_the_probe_notices_torch() -> None:
    done = run(importing("vtp_core.features"))
    assert done.returncode == 1 and "imported torch" in done.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        "vtp_core/__init__.py",
        "vtp_core/config.py",
        "vtp_core/parameters.py",
        "vtp_core/data/recognition.py",
        "vtp_core/run/callback.py",
        "vtp_core/schedule.py",
        "vtp_core/recipe/**/*.py",
        "vtp_core/plugins/**/*.py",
        "vtp_core/cli/**/*.py",
        "vtp_plugins/*/config.py",
        "vtp_plugins/*/plugin.py",
    ],
)
def test_importing_it_imports_no_torch(pattern: str) -> None:
    done = run(importing(*under(pattern)))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins", "list"], ["recipes", "list"], ["validate", "quickstart"]]
)
def test_the_command_imports_no_torch(arguments: list[str]) -> None:
    code = CALL.format(arguments=arguments)
    done = run(PROBE.format(code=code, heavy=HEAVY))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        "vtp_core/objective.py",
        "vtp_core/step.py",
        "vtp_plugins/new_plugin/data/**/*.template",
        "examples/*/vtp_*/**/*.py",
    ]
    + [
        f"vtp_plugins/{name}/**/*.py"
        for name in ("reconstruction", "perceptual", "clip", "dino", "mim", "gan")
    ],
)
def test_an_objective_does_not_name_the_engine(pattern: str) -> None:
    """Text, not imports: an import under TYPE_CHECKING counts, as do the files that nothing else checks."""
    for path in under_any(pattern):
        assert "vtp_core.training" not in path.read_text(encoding="utf-8"), path


def test_no_module_holds_a_tensor() -> None:
    """One that is first imported while networks are built on the meta device would hold it there for good."""
    patterns = (
        "vtp_core/evaluation/*.py",
        "vtp_plugins/evaluate_*/*.py",
        "vtp_core/math/*.py",
        "vtp_core/*.py",
    )
    names = [name for pattern in patterns for name in under(pattern) if not name.endswith("__main__")]
    done = run(MODULE_TENSORS.format(names=names))
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_layers_hold() -> None:
    done = run(LAYERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 broken" in done.stdout and "0 kept" not in done.stdout


def test_no_import_circle_but_the_lazy_imports_of_the_tokenizer() -> None:
    """Imports inside functions count; those for type checking alone do not."""
    graph = grimp.build_graph("vtp_core", "vtp_plugins", exclude_type_checking_imports=True, cache_dir=None)
    for name in ("folder", "hub"):  # `save`, `from_hub`
        graph.remove_import(importer="vtp_core.tokenizer.model", imported=f"vtp_core.artefact.{name}")
    needs = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))
