"""The lines of docs/hand_over.md that put a tokenizer into a pipeline."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "hand_over.md"


def lines() -> str:
    """Ten lines of Python, blank lines aside."""
    found = re.search(r"## diffusers\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    code = found[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    return code
