"""Settings of the evaluator `retrieval`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig


class RetrievalConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "retrieval"``."""

    use: Literal["retrieval"] = "retrieval"
    """This evaluator."""
    at: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (1, 5)
    """Ranks k of recall@k."""
    each_direction: bool = False
    """Whether image to text and text to image are also numbers of their own, with intervals and verdicts."""
