"""Settings of the evaluator `zero_shot`. Imports no torch."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vtp_core.config import EvaluatorConfig

_PUBLISHED: Mapping[str, object] = {"templates": "openai", "classes": "imagenet", "at": (1, 5)}


class ZeroShotConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "zero_shot"``."""

    protocols = {"vtp-2512": {"protocol": "vtp-2512"}}

    use: Literal["zero_shot"] = "zero_shot"
    """This evaluator."""
    protocol: Literal["vtp-2512"] | None = None
    """The evaluation of VTP's release on ImageNet, which fixes `templates`, `classes`, `at`, the squash to
    256 px and the precision."""
    force: bool = False
    """Whether the named protocol measures another number of images than its own, and marks the number."""
    templates: Literal["openai"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "{class}",
        "a photo of {class}",
        "an image of {class}",
    )
    """Prompts; ``{class}`` is the class name with underscores as spaces. Their embeddings are averaged.
    `"openai"`: the 80 that CLIP was measured with on ImageNet, as open_clip ships them."""
    classes: Literal["source", "imagenet"] | Annotated[tuple[str, ...], Field(min_length=2)] = "source"
    """Class names by label: those of the held-out source, `"imagenet"` (the 1,000 names that open_clip ships,
    labels in the order of WordNet ids), or a list. With `templates = "openai"` a source whose classes are
    WordNet ids of ImageNet gets open_clip's names of them."""
    at: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] | None = None
    """Ranks k of top-k accuracy, each measured where there are more classes; by default 1, and with
    ImageNet's prompts or names also 5."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks k."""
        if self.at is not None:
            return self.at
        return (1, 5) if "openai" == self.templates or "imagenet" == self.classes else (1,)

    def settled(self) -> Self:
        """This table with what its named protocol fixes."""
        return self if self.protocol is None else self.model_copy(update=dict(_PUBLISHED))

    @model_validator(mode="after")
    def _fits_protocol(self) -> Self:
        if self.protocol is None:
            if self.force:
                raise ValueError("force needs a protocol to depart from")
            return self
        for key, value in _PUBLISHED.items():
            if getattr(self, key) not in (value, type(self).model_fields[key].default):
                raise ValueError(f"the protocol {self.protocol} fixes {key}; leave the key out")
        return self

    @field_validator("templates")
    @classmethod
    def _has_class(cls, templates: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in () if isinstance(templates, str) else templates:
            if "{class}" not in template:
                raise ValueError(f"template {template!r} has no {{class}}")
        return templates
