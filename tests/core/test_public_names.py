"""`import vtp_core as vtp`: every name is there, typed, and imports torch only if it has to."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import vtp_core

NAMES = sorted(set(vtp_core.__all__) - {"__version__"})
# Promised without torch: tables, hooks, sources, callbacks and the data that they exchange.
TORCH_FREE = (
    "BadSample Callback ComponentConfig DataError DecodeLimits Diagnosis Dims EvaluatorConfig Metric "
    "ObjectiveConfig "
    "ParamRule Register RunInfo Sample Schedule Scheduled Score Source SourceConfig Table UsageError "
    "ViewNeed VtpError hookimpl value_at"
).split()

PROBE = """
import json, sys
import vtp_core as vtp
before = sorted(name for name in sys.modules if name.startswith("vtp_core."))
loaded = {}
for name in sys.argv[1:]:
    getattr(vtp, name)
    loaded[name] = sorted({"torch", "numpy"} & set(sys.modules))
print(json.dumps({"before": before, "loaded": loaded}))
"""


def probe(*names: str) -> dict[str, object]:
    command = [sys.executable, "-c", PROBE, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_name_resolves(name: str) -> None:
    assert getattr(vtp_core, name) is not None
    assert name in dir(vtp_core)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vtp_core' has no attribute 'Objektive'"):
        vtp_core.Objektive  # noqa: B018


def test_what_type_checkers_see_is_what_is_imported() -> None:
    """The import under TYPE_CHECKING names the object that the lazy attribute gives."""
    tree = ast.parse(Path(vtp_core.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(seen) == NAMES
    for name, module in seen.items():
        assert module is not None
        assert getattr(vtp_core, name) is getattr(sys.modules[module], name)


def test_importing_it_imports_nothing_else() -> None:
    assert probe() == {"before": [], "loaded": {}}


def test_the_names_for_tables_hooks_sources_and_callbacks_import_no_torch() -> None:
    loaded = probe(*TORCH_FREE)["loaded"]
    assert isinstance(loaded, dict) and list(loaded) == TORCH_FREE
    assert [name for name, heavy in loaded.items() if "torch" in heavy] == []


def test_the_probe_notices_torch() -> None:
    assert probe("Losses")["loaded"] == {"Losses": ["numpy", "torch"]}
