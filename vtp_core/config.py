"""Base classes of component tables: ``[encoder]``, ``[objectives.NAME]`` and the rest. Imports no torch.

A plugin's ``config.py`` subclasses them. The docstring below a field says what it means and where its default
comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vtp_core.schedule import NotNegative
from vtp_core.view import ViewNeed, ViewSize

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class KeyHistory:
    """Earlier keys and values of a table, for reading files that older versions wrote.

    Keys are dotted paths inside the table; `*` stands for any one name.

    Attributes:
        renamed: Old key -> new key, with as many `*`.
        values: Key -> old value -> new value; for lists, of each element.
        added: Key -> value that reproduces the behaviour before the key existed. Not for keys that may be
            unset, since written files leave those out.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    added: Mapping[str, object] = field(default_factory=dict)


class Table(BaseModel):
    """A table of the recipe: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentConfig(Table):
    """A table that chooses a component by name."""

    key_history: ClassVar[KeyHistory] = KeyHistory()
    """Earlier keys and values of this table."""

    use: str
    """Name of the component, as ``vtp plugins list`` prints it."""

    def untrained(self) -> Self:
        """This table with `weights = "random"`, nested tables too; `vtp plan` builds it and opens no weights.

        A component whose pretrained weights have another key overrides it.
        """
        return _untrained(self)

    def restored(self) -> Self:
        """This table as a resume and an artefact build it: `untrained`, as the weights follow.

        A component that leaves weights out of its state dict overrides it, to read them again.
        """
        return self.untrained()


def _untrained(table: _Model) -> _Model:
    fields = type(table).model_fields
    update: dict[str, object] = {
        name: _untrained(value) for name in fields if isinstance(value := getattr(table, name), BaseModel)
    }
    if "weights" in fields:
        update["weights"] = "random"
    return table.model_copy(update=update) if update else table


class SourceConfig(ComponentConfig):
    """A table ``[data.source]`` or ``[data.sources.NAME]``."""

    key_history: ClassVar[KeyHistory] = KeyHistory(added={"exclude": []})

    part: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] | None = None
    """Keep the samples whose key's hash lies between these fractions: `[0.0, 0.9]` to train on and
    `[0.9, 1.0]` to evaluate on share none, and a new sample moves no other. None: all."""
    exclude: tuple[str, ...] = ()
    """Keys of samples to leave out, such as files that can't be read."""

    @field_validator("part")
    @classmethod
    def _part_rises(cls, part: tuple[float, float] | None) -> tuple[float, float] | None:
        if part is not None and part[0] >= part[1]:
            raise ValueError(f"the first fraction must be below the second, got {list(part)}")
        return part

    def offers(self) -> frozenset[str] | None:
        """Fields of each sample, of "image", "text", "label" and "latent"; None: unknown until it is opened.

        The table alone decides, so that a recipe can be checked on a machine without the data.
        """
        return None

    def offers_latents(self) -> bool:
        """Whether every sample is known to have a cached latent, also where other fields are unknown."""
        offered = self.offers()
        return offered is not None and "latent" in offered

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        """The keys, without `use`, of a table that reads `path`; None if this source doesn't read it.

        Commands that take a path for a table ask every installed source. Look at names; open no file.

        Args:
            path: A file, a folder or a pattern of paths, as the user typed it.

        Raises:
            ValueError: The path looks like this source's and can't be read; the message says why. It is
                shown if no other source recognises the path.
        """
        return None


class EvaluatorConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` of an evaluator that has named protocols."""

    protocols: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Name of a protocol -> the keys of this table that choose it; ``vtp eval --protocol`` sets them."""

    def conflicts(self) -> Mapping[str, str]:
        """As of `ObjectiveConfig`; tables of a command line are asked too."""
        return {}


class GeneratedEvaluatorConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` of an evaluator of generated samples."""

    settings: Mapping[str, Any] = {}
    """Changes of the generator's settings, such as ``{ steps = 50, guidance = 2.0 }``."""


class AugmentationConfig(ComponentConfig):
    """A table ``augment`` of a view."""

    def cuts_at_random(self) -> bool:
        """Whether crops are random parts of the image, so that `scale` of a crop set has an effect."""
        return True


class OptimizerOverrides(Table):
    """Factors of one owner on ``[optimizer]``."""

    lr: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the weight decay."""


class OptimizerConfig(ComponentConfig):
    """A table ``[optimizer]`` or ``critic_optimizer``. Subclasses add the keys of their algorithm."""

    moves_shards: ClassVar[bool] = True
    """Whether the algorithm can move parameters that ranks hold in parts (``parallel.shard`` above 1)."""

    lr: NotNegative
    """Learning rate, a number or a schedule."""
    weight_decay: NotNegative = 0.05
    """Decoupled weight decay of parameters with two or more dimensions, a number or a schedule."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; larger gradients are scaled down. `inf` clips nothing."""
    clip_scope: Literal["global", "owner"] = "global"
    """One norm over all parameters, or one for each owner (encoder, bottleneck, decoder, each objective)."""
    owners: Mapping[str, OptimizerOverrides] = {}
    """Factors for `encoder`, `bottleneck` and `decoder`; an objective has its own `optimizer` table."""


class ObjectiveConfig(ComponentConfig):
    """A table ``[objectives.NAME]``. Subclasses add their own keys and say which views they need."""

    needs_frozen_tokenizer: ClassVar[bool] = False
    """Whether encoder and bottleneck must be frozen, as what is learnt is of no use to other latents."""

    weight: NotNegative = 1.0
    """Factor on the sum of the objective's terms."""
    start: Annotated[int, Field(ge=0)] = 0
    """First step at which the objective is active."""
    stop: Annotated[int, Field(gt=0)] | None = None
    """First step at which it is no longer active."""
    optimizer: OptimizerOverrides = OptimizerOverrides()
    """Factors for the objective's own parameters."""

    def views(self) -> Mapping[str, ViewNeed]:
        """View of the recipe -> what the objective needs of it."""
        return {}

    def partners(self) -> Mapping[str, str]:
        """Key of this table -> the other objective that it names and whose modules this one uses."""
        return {}

    def conflicts(self) -> Mapping[str, str]:
        """Dotted key of this table -> why its value can't work beside the table's other values.

        Problems of a recipe that a person wrote. Files that runs wrote are not asked, so that what was once
        accepted still loads.
        """
        return {}

    def chance(
        self, views: Mapping[str, ViewSize], objectives: Mapping[str, ObjectiveConfig]
    ) -> Mapping[str, float]:
        """Term -> its value while the outputs tell nothing, such as log K for K equal choices.

        The report draws a line there. Leave out terms that have no such value.

        Args:
            views: The recipe's views.
            objectives: Its objectives, by name.
        """
        return {}

    def active(self, index: int) -> bool:
        """Whether the objective takes part in step `index`."""
        return self.start <= index and (self.stop is None or index < self.stop)


def first_problem(error: Exception) -> str:
    """The first problem of a table's validation, after its key; of another error its text."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = [".".join(map(str, first["loc"]))] if first["loc"] else []
    return ": ".join([*where, first["msg"].removeprefix("Value error, ")])


def base_config(kind: str) -> type[ComponentConfig]:
    """The class that the tables of all components of a kind subclass."""
    bases: Mapping[str, type[ComponentConfig]] = {
        "augmentation": AugmentationConfig,
        "objective": ObjectiveConfig,
        "optimizer": OptimizerConfig,
    }
    return bases.get(kind, ComponentConfig)
