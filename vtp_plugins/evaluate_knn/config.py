"""Settings of the evaluator `knn`. Imports no torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig, KeyHistory


class KnnConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "knn"``."""

    key_history: ClassVar[KeyHistory] = KeyHistory(renamed={"neighbours": "neighbors"})

    use: Literal["knn"] = "knn"
    """This evaluator."""
    features: Literal["cls", "patches", "cls_patches", "last_layer", "latent", "latent_map"] = "cls_patches"
    """Features, as `linear_probe` reads them."""
    neighbors: Annotated[int, Field(gt=0)] = 20
    """Number of nearest training images that vote (DINO's k)."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """A neighbour's vote is exp(cosine / temperature) (DINO's value)."""
