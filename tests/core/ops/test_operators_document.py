"""The examples in docs/operators.md run as they stand, and its headings are the functions' arguments."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from vtp_core import ops

DOCUMENT = Path(__file__).parents[3] / "docs" / "operators.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "example"})
    if "->" in (said := capsys.readouterr().out):
        before, after = map(float, said.split("->"))
        assert after < before


@pytest.mark.parametrize(
    "name", ["nearest_code", "code_statistics", "straight_through", "rotation_trick", "vit_attention"]
)
def test_headings_name_every_argument(name: str) -> None:
    (shown,) = re.findall(rf"^##.*\b{name}\((.*?)\)", DOCUMENT.read_text(), re.M)
    names = [re.split("[:=]", argument)[0].strip() for argument in shown.split(",")]
    assert [item for item in names if item != "*"] == list(inspect.signature(getattr(ops, name)).parameters)
