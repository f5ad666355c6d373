"""Image files in folders named for their class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import os
from pathlib import Path

from vtp_core.data.decoding import decode_image, decode_text, read_file
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.image_folder.config import ImageFolderConfig


class ImageFolder:
    """Image files below a folder.

    Its subfolders are the classes, in order of name; without any, samples have no label. Captions come from a
    template or from ``NAME.txt`` beside the image.

    Args:
        config: Its table.
        limits: Limits on its samples.

    Raises:
        DataError: The folder is missing, has no image, or has a class without one.
    """

    def __init__(self, config: ImageFolderConfig, limits: DecodeLimits) -> None:
        self.config = config
        self.limits = limits
        self.root = Path(config.path).expanduser()
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; check the path of the source")
        self._files = self._list()
        if not self._files:
            raise DataError(f"{self.root}: no file ends in {', '.join(config.extensions)}")
        tops = [path.split("/", 1)[0] if "/" in path else "" for path in self._files]
        # A folder that also has images without a subfolder has no classes.
        self.classes: tuple[str, ...] = () if "" in tops else tuple(sorted(set(tops)))
        self._check_classes()
        number = {name: index for index, name in enumerate(self.classes)}
        self._labels = [number[top] for top in tops] if self.classes else []
        fields = {"image"}
        if self.classes:
            fields.add("label")
        if config.caption is not None or self._caption_path(0).is_file():
            fields.add("text")
        self.fields = frozenset(fields)

    def _list(self) -> list[str]:
        endings = tuple("." + extension for extension in self.config.extensions)
        found: list[str] = []
        for folder, below, names in os.walk(self.root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            inside = Path(folder).relative_to(self.root)
            found += [
                (inside / name).as_posix()
                for name in names
                if name.lower().endswith(endings) and not name.startswith(".")
            ]
        return sorted(found)

    def _check_classes(self) -> None:
        folders = {
            item.name for item in self.root.iterdir() if item.is_dir() and not item.name.startswith(".")
        }
        if self.classes and (empty := sorted(folders - set(self.classes))):
            raise DataError(
                f"{self.root}: {len(empty)} class folders have no image: {', '.join(empty[:5])}; "
                "fill or remove them, as the other classes' indices depend on them"
            )
        if self.config.caption is not None and "{class}" in self.config.caption and not self.classes:
            raise DataError(f"{self.root}: the caption uses {{class}}, but images are not in class folders")

    def __len__(self) -> int:
        return len(self._files)

    def _caption_path(self, index: int) -> Path:
        return (self.root / self._files[index]).with_suffix(".txt")

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source.read`."""
        name = self._files[index]
        label = self._labels[index] if self.classes else None
        text = self._text(index, name, label) if "text" in fields else None
        image = None
        if "image" in fields:
            image = decode_image(read_file(self.root / name, name, self.limits.max_bytes), name, self.limits)
        return Sample(key=name, image=image, text=text, label=label)

    def _text(self, index: int, key: str, label: int | None) -> str:
        if self.config.caption is not None:
            return self.config.caption.format_map({"class": "" if label is None else self.classes[label]})
        path = self._caption_path(index)
        if not path.is_file():
            raise BadSample(key, "no caption", f"no file {path.name}")
        return decode_text(read_file(path, key, self.limits.max_text_bytes), key, self.limits)
