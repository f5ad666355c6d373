"""The recipe: one stage of training as validated, frozen data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializeAsAny, ValidationInfo, model_serializer, model_validator

from vtp_core.config import ComponentConfig, ObjectiveConfig, OptimizerConfig, Table
from vtp_core.errors import UsageError
from vtp_core.recipe.problems import Origin
from vtp_core.recipe.tables.data import DataConfig
from vtp_core.recipe.tables.initial import InitFrom
from vtp_core.recipe.tables.optimizer import EmaConfig
from vtp_core.recipe.tables.run import EvaluateConfig, KernelsConfig, ParallelConfig, RunConfig
from vtp_core.recipe.tables.slot import Slot
from vtp_core.recipe.tables.views import ViewConfig


class FrozenConfig(Table):
    """A frozen network that objectives use: an encoder's own keys, and `weights`."""

    encoder: Annotated[SerializeAsAny[ComponentConfig], Slot("encoder")]
    """The network; in a recipe its keys are in the same table as `weights`."""
    weights: str = ""
    """File or name of the weights; empty: the encoder's own choice."""

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, table: Any, info: ValidationInfo) -> Any:
        """Splits the flat table of a recipe; an encoder with its own key `weights` gets it too, if set."""
        if not isinstance(table, dict) or isinstance(table.get("encoder"), ComponentConfig):
            return table
        encoder = dict(table)
        weights = encoder.pop("weights", "")
        plugins = (info.context or {})["plugins"]
        try:
            own = "weights" in plugins.find("encoder", table.get("use")).load_config().model_fields
        except UsageError:  # reported by the slot
            own = False
        if own and weights:
            encoder["weights"] = weights
        return {"encoder": encoder, "weights": weights}

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        return {**self.encoder.model_dump(by_alias=True, serialize_as_any=True), "weights": self.weights}


class Recipe(Table):
    """One stage: data, tokenizer, objectives and how to train them.

    Made by `vtp_core.recipe.load_recipe`. A component's table is its config object.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    """Version of the recipe format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
    """Name of the recipe, by default that of its file; letters, digits, `.`, `_` and `-`."""
    init_from: InitFrom | None = None
    """Run folder, checkpoint or artefact whose weights the stage starts from, or a table with its `path`."""
    freeze: tuple[str, ...] = ()
    """Owners that are not trained: `encoder`, `bottleneck`, `decoder` or names of objectives."""
    run: RunConfig
    """Length, precision, output and safety of the run."""
    parallel: ParallelConfig = ParallelConfig()
    """Spread over devices."""
    data: DataConfig
    """Sources and the loader."""
    views: Mapping[str, ViewConfig] = {}
    """Views of the samples, by name."""
    encoder: Annotated[SerializeAsAny[ComponentConfig], Slot("encoder")]
    """Images to tokens."""
    bottleneck: Annotated[SerializeAsAny[ComponentConfig], Slot("bottleneck")]
    """Tokens to the latent."""
    decoder: Annotated[SerializeAsAny[ComponentConfig], Slot("decoder")]
    """Latent to an image."""
    objectives: Mapping[str, Annotated[SerializeAsAny[ObjectiveConfig], Slot("objective")]] = {}
    """Objectives, by name."""
    optimizer: Annotated[SerializeAsAny[OptimizerConfig], Slot("optimizer")]
    """The optimiser of everything but critics."""
    ema: EmaConfig = EmaConfig()
    """Teachers: moving averages of networks."""
    frozen: Mapping[str, FrozenConfig] = {}
    """Frozen networks that objectives use, by name."""
    kernels: KernelsConfig = KernelsConfig()
    """Implementations of the core's operators."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When the evaluators run, and on which data."""
    evaluators: Mapping[str, Annotated[SerializeAsAny[ComponentConfig], Slot("evaluator")]] = {}
    """Evaluators, by name."""
    callbacks: Mapping[str, Annotated[SerializeAsAny[ComponentConfig], Slot("callback")]] = {}
    """Callbacks, by name."""
    provenance: Mapping[str, Origin] = Field(default={}, exclude=True, repr=False)
    """Key path -> where the value was set; without defaults."""

    def __eq__(self, other: object) -> bool:
        """Whether all settings are equal; `provenance` does not count."""
        if not isinstance(other, Recipe):
            return NotImplemented
        fields = [name for name in type(self).model_fields if name != "provenance"]
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    __hash__ = None  # type: ignore[assignment]
