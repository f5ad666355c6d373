"""Keys of the source `latents`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SerializeAsAny, model_validator

from vtp_core.config import ComponentConfig, SourceConfig
from vtp_core.recipe.tables.slot import Slot

Positive = Annotated[int, Field(gt=0)]


class LatentsConfig(SourceConfig):
    """Latents instead of images: of `source`, encoded once by `tokenizer`, or of files at `path`."""

    use: str = "latents"
    """Name of the component."""
    tokenizer: str | None = None
    """What encodes: a run folder, a checkpoint, an artefact or the name of a tokenizer that ships."""
    source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")] | None = None
    """The images, with their labels and captions."""
    path: str | None = None
    """Instead of both: a folder of latents (ours or LightningDiT's) or a file of ``vtp encode``."""
    cache: str = "runs/latents"
    """Where folders of encoded latents are kept, each named by tokenizer, images and image size."""
    size: Positive | tuple[Positive, Positive] | None = None
    """Side of the images in pixels, or height and width; default: the tokenizer's image size."""
    flips: bool = True
    """Whether latents of the mirror images are used too, one of both at random (LightningDiT)."""
    rows: Positive = 64
    """Images that are encoded at a time."""
    shard_samples: Positive | None = None
    """Samples a file; one that is whole is not encoded again (LightningDiT: 10,000). Default: as many as have
    256 MB of latents, at most 4096."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.path is not None and (self.tokenizer is not None or self.source is not None):
            raise ValueError("give either path, or tokenizer and source")
        if self.path is None and (self.tokenizer is None or self.source is None):
            raise ValueError(
                "give tokenizer and source (images to encode once), or path (latents that exist)"
            )
        return self

    def offers(self) -> frozenset[str] | None:
        """Latents beside what the images' source has; unknown of files."""
        inner = self.source.offers() if isinstance(self.source, SourceConfig) else None
        return None if inner is None else inner | {"latent"}

    def offers_latents(self) -> bool:
        """True, whatever the images' source has."""
        return True

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        """A ``.safetensors`` file."""
        return {"path": path} if Path(path).suffix == ".safetensors" else None
