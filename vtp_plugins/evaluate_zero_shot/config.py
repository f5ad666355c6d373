"""Settings of the evaluator `zero_shot`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from vtp_core.config import ComponentConfig


class ZeroShotConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "zero_shot"``."""

    use: Literal["zero_shot"] = "zero_shot"
    """This evaluator."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "{class}",
        "a photo of {class}",
        "an image of {class}",
    )
    """Prompts; ``{class}`` is the class name with underscores as spaces. Their embeddings are averaged."""

    @field_validator("templates")
    @classmethod
    def _has_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{class}" not in template:
                raise ValueError(f"template {template!r} has no {{class}}")
        return templates
