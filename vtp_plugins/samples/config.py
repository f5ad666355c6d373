"""Keys of the source `samples`. Imports no torch."""

from __future__ import annotations

from typing import Literal

from vtp_core.config import SourceConfig


class SamplesConfig(SourceConfig):
    """Drawings in this package; origin and license: `vtp_plugins/samples/data/README.md`."""

    use: str = "samples"
    """Name of the component."""
    split: Literal["train", "val"] = "train"
    """`train`: 800 samples; `val`: 215 others."""
    caption: Literal["title", "title_and_class"] = "title"
    """`title`: title and keywords. `title_and_class`: then the class ("A drawing of animals."), so that
    a text tower learns its name."""
