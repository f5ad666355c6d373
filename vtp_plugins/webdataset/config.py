"""Keys of the source `webdataset`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from vtp_core.config import SourceConfig, Table
from vtp_core.data.caption_template import check_template
from vtp_plugins.tar_shards.compression import refusal


class SubsetConfig(Table):
    """A random part of the samples, the same on every machine."""

    size: Annotated[int, Field(ge=1)]
    """Number of samples."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of one seed, a smaller subset is part of every larger one."""


FURTHER = {
    "image": ("image.jpg", "image.jpeg", "image.png", "image.webp"),
    "text": ("caption.txt", "text.txt"),
    "label": ("label.cls", "label.txt"),
}
"""Extensions that the default lists find besides their own: so recipes of earlier versions stay the same."""


class WebDatasetConfig(SourceConfig):
    """Tar shards on a local or mounted disk."""

    use: str = "webdataset"
    """Name of the component."""
    urls: str | tuple[str, ...]
    """Shards: paths with braces (`{00000..00123}.tar`), wildcards (`*.tar`), or a list of them."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif")
    """Extensions of images, in order of preference; one with a dot may also be a file's whole name, in a
    folder for each sample. The default also finds `image.png` and the like."""
    text: tuple[str, ...] = ("txt", "caption")
    """Extensions of captions; such a file has precedence over the JSON object. The default also finds
    `caption.txt` and `text.txt`."""
    label: tuple[str, ...] = ("cls", "label")
    """Extensions of files of a class: its index, or a name of `classes` that is no number; such a file has
    precedence over the JSON object. The default also finds `label.cls` and `label.txt`."""
    latent: tuple[str, ...] = ("latent.npy",)
    """Extensions of cached latents (NumPy, never pickled)."""
    record: tuple[str, ...] = ("json",)
    """Extensions of JSON objects, read only for captions and classes that have no file of their own."""
    record_text: tuple[str, ...] = ("text", "caption")
    """Keys of the caption in the JSON object, the first that is there."""
    record_label: tuple[str, ...] = ("cls", "label")
    """Keys of the class in the JSON object, the first that is there: a number is an index, text is a name of
    `classes` or, if there is none of that name, an index."""
    ignored: tuple[str, ...] = ()
    """Further extensions that are part of a sample and not read; `KEY.seg.png` beside `KEY.jpg` never is."""
    classes: tuple[str, ...] = ()
    """Class names by index; labels outside are an error."""
    caption: str | None = None
    """Template of captions, such as `"a photo of a {class}"` or `"{text} A drawing of {class}."`."""
    subset: SubsetConfig | None = None
    """Take a random subset of all shards: `{ size = 100_000, seed = 0 }`; None: every sample."""
    allow_missing: bool = False
    """Whether missing shards are skipped."""
    index_cache: bool = True
    """Whether shard indices are cached: beside the shards, or in the user's cache if that is read-only."""

    def extensions(self, field: str) -> tuple[str, ...]:
        """Extensions of a field, with those that its default list stands for."""
        chosen: tuple[str, ...] = getattr(self, field)
        return (*chosen, *FURTHER[field]) if chosen == type(self).model_fields[field].default else chosen

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        """Paths that end in ``.tar``, and a folder that holds such files; compressed ones are refused."""
        folder = Path(expanduser(path))
        if folder.is_dir():
            if any(folder.glob("*.tar")):
                return {"urls": f"{path}/*.tar"}
            first = next(_compressed(folder), None)
            return None if first is None else {"urls": cls._only_files(str(first))}
        if path.startswith("pipe:") or path.endswith((".tar", ".tgz")) or ".tar." in path:
            return {"urls": cls._only_files(path)}
        return None

    @field_validator("image", "text", "label", "latent", "record", "ignored")
    @classmethod
    def _lower(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in extensions)

    @field_validator("urls")
    @classmethod
    def _only_files(cls, urls: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (urls,) if isinstance(urls, str) else urls:
            if url.startswith("pipe:"):
                raise ValueError(f"{url!r} would run a shell command; copy or mount the shards instead")
            if reason := refusal(url):
                raise ValueError(reason)
            if "://" in url:
                raise ValueError(f"{url!r} is not a path; shards are read by position: copy or mount them")
        return urls

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        check_template(self.caption, "class", "text")
        if self.caption is not None and "{class}" in self.caption and not self.classes:
            raise ValueError("caption uses {class}, so classes must name them")
        return self


def _compressed(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*.t*")) if ".tar." in path.name and refusal(path.name))
