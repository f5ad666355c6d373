"""Image files in folders named for their class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path

from vtp_core.data.completeness import Lost
from vtp_core.data.decoding import decode_image, decode_text, read_file
from vtp_core.data.files import LINKED, RUN, UNREADABLE, file_bytes, files_below
from vtp_core.data.source import BadSample, Sample, as_utf8
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.image_folder.config import ImageFolderConfig


class ImageFolder:
    """Image files below a folder; links to folders are followed.

    Its subfolders are the classes, in order of name or as the key `classes` lists them; without any, samples
    have no label. Captions come from a template or from ``NAME.txt`` beside the image, if most images have
    one.

    Args:
        config: Its table.
        limits: Limits on its samples.

    Raises:
        DataError: The folder is missing, has no image, or has a class without one.
    """

    def __init__(self, config: ImageFolderConfig, limits: DecodeLimits) -> None:
        self.config = config
        self.limits = limits
        self.root = Path(expanduser(config.path))
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; check the path of the source")
        self._problems: dict[str, list[str]] = {}
        endings = tuple("." + extension for extension in config.extensions)
        found = sorted(files_below(self.root, (*endings, ".txt"), self._problems))
        if config.classes is not None:
            found = [name for name in found if _top(name) in config.classes]
        self._files = [name for name in found if name.lower().endswith(endings)]
        if not self._files:
            raise DataError(f"{self.root}: no file ends in {', '.join(config.extensions)}")
        tops = [_top(name) for name in self._files]
        # A folder that also has images without a subfolder has no classes.
        self.classes: tuple[str, ...] = () if "" in tops else config.classes or tuple(sorted(set(tops)))
        self._check_classes(frozenset(tops))
        number = {name: index for index, name in enumerate(self.classes)}
        self._labels = [number[top] for top in tops] if self.classes else []
        self.classes = tuple(as_utf8(name) for name in self.classes)
        fields = {"image"}
        if self.classes:
            fields.add("label")
        if config.caption is not None or self._has_captions(frozenset(found)):
            fields.add("text")
        self.fields = frozenset(fields)

    def _has_captions(self, files: frozenset[str]) -> bool:
        """Whether most images have a caption; exceptions are problems."""
        have = sum(_caption_name(name) in files for name in self._files)
        most = 2 * have > len(self)
        if 0 < have < len(self):
            what = "sample without a caption" if most else "not used: few samples have a caption"
            count = len(self) - have if most else have
            self._problems[what] = [f"{self.root}: {count} of {len(self)}"]
        return most

    def _check_classes(self, filled: frozenset[str]) -> None:
        folders = set(self.config.classes or ())
        if not folders:
            folders = {
                item.name for item in self.root.iterdir() if item.is_dir() and not item.name.startswith(".")
            }
            folders -= {name for name in self._problems.get(LINKED, ()) if "/" not in name}
            folders -= {name.partition("/")[0] for name in self._problems.get(RUN, ())}
        if self.classes and (empty := sorted(folders - filled)):
            raise DataError(
                f"{self.root}: {len(empty)} class folders have no image: {', '.join(empty[:5])}; "
                "fill or remove them, or list the others in the key classes"
            )
        if self.config.caption is not None and "{class}" in self.config.caption and not self.classes:
            raise DataError(f"{self.root}: the caption uses {{class}}, but images are not in class folders")

    def __len__(self) -> int:
        return len(self._files)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Folder that was skipped, or field that some samples lack -> where."""
        return self._problems

    def lost(self) -> Lost:
        """Folders that could not be opened; each counts as many images as the others on average."""
        closed = self._problems.get(UNREADABLE, ())
        opened = {name.rpartition("/")[0] for name in self._files}
        parts = tuple(f"{self.root}/{place}" for place in closed)
        return Lost(parts=parts, fraction=len(closed) / (len(closed) + len(opened)))

    def image_bytes(self, index: int) -> int | None:
        """See `vtp_core.data.source.SizedSource.image_bytes`."""
        return file_bytes(self.root / self._files[index])

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source.read`."""
        name = self._files[index]
        label = self._labels[index] if self.classes else None
        text = self._text(name, label) if "text" in fields else None
        image = None
        if "image" in fields:
            image = decode_image(read_file(self.root / name, name, self.limits.max_bytes), name, self.limits)
        return Sample(key=name, image=image, text=text, label=label)

    def _text(self, key: str, label: int | None) -> str:
        if self.config.caption is not None:
            return self.config.caption.format_map({"class": "" if label is None else self.classes[label]})
        path = self.root / _caption_name(key)
        if not path.is_file():
            raise BadSample(key, "no caption", f"no file {path.name}")
        return decode_text(read_file(path, key, self.limits.max_text_bytes), key, self.limits)


def _top(name: str) -> str:
    """The folder directly below the root; empty for a file there."""
    return name.split("/", 1)[0] if "/" in name else ""


def _caption_name(name: str) -> str:
    return name.rpartition(".")[0] + ".txt"
