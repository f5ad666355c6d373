"""An object whose pickle runs code: tests look whether a reader has run it."""

from __future__ import annotations

import os
from pathlib import Path


class PickledCode:
    """Unpickled, it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)
