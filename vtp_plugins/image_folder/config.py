"""Keys of the source `image_folder`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from vtp_core.config import SourceConfig
from vtp_core.data.caption_template import check_template
from vtp_core.data.files import files_below


class ImageFolderConfig(SourceConfig):
    """Image files in a folder; its subfolders, if any, are the classes."""

    use: str = "image_folder"
    """Name of the component."""
    path: str
    """The folder."""
    extensions: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif")
    """Extensions of images; other files are ignored."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Subfolders that are read, in the order of their indices; default: all, by name."""
    caption: str | None = None
    """Template of captions, such as `"a photo of a {class}"`; default: captions from `NAME.txt`."""

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        """A folder with an image in it or below it, unless a `metadata.jsonl` or its like describes them."""
        if any(
            (Path(expanduser(path)) / f"metadata.{kind}").is_file() for kind in ("jsonl", "csv", "parquet")
        ):
            return None
        endings = tuple(f".{extension}" for extension in cls.model_fields["extensions"].default)
        found = files_below(Path(expanduser(path)), endings, {})
        return {"path": path} if any(True for _ in found) else None

    @field_validator("extensions")
    @classmethod
    def _lower(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in extensions)

    @field_validator("classes")
    @classmethod
    def _folders(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in classes or ():
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"{name!r} is not the name of a folder directly below the path")
        if classes and len(set(classes)) < len(classes):
            raise ValueError("a folder is named twice")
        return classes

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        check_template(self.caption, "class")
        return self
