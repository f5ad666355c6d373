"""Keys of the source `image_list`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Self

from pydantic import model_validator

from vtp_core.config import SourceConfig
from vtp_core.data.caption_template import check_template

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of tables that can be read."""


class ImageListConfig(SourceConfig):
    """A table with one row for each image: CSV, JSONL or parquet (extra `parquet`)."""

    use: str = "image_list"
    """Name of the component."""
    path: str
    """The table, or a folder with Hugging Face's `metadata.jsonl`, `metadata.csv` or `metadata.parquet`."""
    root: str | None = None
    """Folder of the images' relative paths; default: the table's own."""
    image: tuple[str, ...] = ("file_name", "image", "image_path", "path", "file", "filename", "filepath")
    """Columns of the image's path; the first that exists is read."""
    text: tuple[str, ...] = ("text", "caption", "description", "prompt", "title")
    """Columns of the caption; the first that exists is read."""
    label: tuple[str, ...] = ("label", "class", "cls", "category")
    """Columns of the class, an index or a name; the first that exists is read."""
    classes: tuple[str, ...] = ()
    """Class names by index; default: the names in the table, sorted, or none if it holds indices."""
    caption: str | None = None
    """Template of captions, such as `"a photo of a {class}"` or `"{text} A drawing of {class}."`."""

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        """A table by its ending, and a folder with `metadata.jsonl`, `.csv` or `.parquet`."""
        table = Path(expanduser(path))
        return {"path": path} if table.suffix.lower() in ENDINGS or find_metadata(table) else None

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        check_template(self.caption, "class", "text")
        return self


def find_metadata(folder: Path) -> Path | None:
    """The table of Hugging Face's image folders, if `folder` has one."""
    named = (folder / f"metadata{ending}" for ending in (".jsonl", ".csv", ".parquet"))
    return next((path for path in named if path.is_file()), None)
