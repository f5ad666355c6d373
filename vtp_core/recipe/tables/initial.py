"""``init_from``: the weights that a stage starts from. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from vtp_core.config import Table


class InitFromConfig(Table):
    """``init_from`` as a table; a string is its `path` alone."""

    path: Annotated[str, Field(min_length=1)]
    """Run folder, checkpoint, artefact, folder or file of another project, or the name of a tokenizer that
    ships."""
    fresh: tuple[str, ...] = ()
    """What is initialised instead of loaded: owners as in `freeze` (`decoder`, `clip`), or patterns of
    tensor names (`tokenizer.encoder.*.q_norm.*`)."""
    match: Literal["all", "shapes"] = "all"
    """What must fit: `all` tensors of a network that is there; with `shapes`, those of equal names and shapes
    are loaded and the rest starts fresh."""
    resample: bool = False
    """Whether patch embeddings, pixel layers and learned positions of other sizes are fitted (FlexiViT;
    interpolation)."""


def _which(value: object) -> str:
    return "table" if isinstance(value, dict | InitFromConfig) else "string"


InitFrom = Annotated[
    Annotated[str, Tag("string")] | Annotated[InitFromConfig, Tag("table")], Discriminator(_which)
]
"""A path or name, or a table with `path`."""
