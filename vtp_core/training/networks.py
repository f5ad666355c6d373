"""All modules of a run, by name and by owner.

Parameter names are the checkpoint's keys: ``tokenizer.<part>.*``, ``objectives.<name>.*``; EMA copies carry
``ema.`` in front. Each trainable parameter has one owner: a tokenizer part, an objective, or its critic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.objective import AdversarialObjective, Objective

PARTS = ("encoder", "bottleneck", "decoder")


@dataclass(kw_only=True)
class Networks:
    """The modules of a run.

    Attributes:
        encoder: Shared by all objectives, as are bottleneck and decoder.
        objectives: Recipe name -> objective, in recipe order.
        frozen: Recipe name -> frozen helper network of ``[frozen.NAME]``.
        ema: Name of a student (``tokenizer.encoder``, ``objectives.dino.head``) -> its EMA copy.
        helpers: ``<objective>.<child>`` of the frozen networks that objectives are built with (an LPIPS
            trunk): replicated and never saved.
    """

    encoder: Encoder
    bottleneck: Bottleneck
    decoder: Decoder
    objectives: Mapping[str, Objective]
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    ema: Mapping[str, nn.Module] = field(default_factory=dict)
    helpers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Finds the frozen helpers, before a recipe freezes what an objective would have trained."""
        self.helpers = frozenset(
            f"{name}.{child}"
            for name, objective in self.objectives.items()
            for child, module in objective.named_children()
            if child != "critic" and _is_frozen(module)
        )

    def part(self, name: str) -> nn.Module:
        """The tokenizer part ``encoder``, ``bottleneck`` or ``decoder``."""
        module: nn.Module = getattr(self, name)
        return module

    def adversaries(self) -> dict[str, AdversarialObjective]:
        """The objectives that have a critic, by name."""
        return {name: o for name, o in self.objectives.items() if isinstance(o, AdversarialObjective)}

    def modules_of(self, owner: str) -> Iterator[tuple[str, nn.Module]]:
        """(full name, module) of an owner; of an objective without its critic and its frozen helpers."""
        if owner in PARTS:
            yield f"tokenizer.{owner}", self.part(owner)
            return
        name, _, critic = owner.partition(".")
        if critic:
            yield f"objectives.{name}.critic", self.adversaries()[name].critic
            return
        for child, module in self.children_of(name):
            yield f"objectives.{name}.{child}", module

    def children_of(self, objective: str) -> Iterator[tuple[str, nn.Module]]:
        """(name, child module) of an objective, without its critic and its frozen helpers."""
        for child, module in self.objectives[objective].named_children():
            if child != "critic" and f"{objective}.{child}" not in self.helpers:
                yield child, module

    def parameters_of(self, owner: str) -> dict[str, nn.Parameter]:
        """Full name -> parameter of an owner, frozen ones included."""
        found = {
            f"{prefix}.{name}": parameter
            for prefix, module in self.modules_of(owner)
            for name, parameter in module.named_parameters()
        }
        if owner in self.objectives:
            direct = self.objectives[owner].named_parameters(recurse=False)
            found.update({f"objectives.{owner}.{name}": parameter for name, parameter in direct})
        return found

    def block_parameters(self, owner: str) -> frozenset[str]:
        """Full names of an owner's parameters that lie in blocks: hidden layers, not embeddings or heads."""
        inside = {
            id(parameter)
            for _, module in self.modules_of(owner)
            for block in blocks_of(module)
            for parameter in block.parameters()
        }
        return frozenset(name for name, value in self.parameters_of(owner).items() if id(value) in inside)

    def owners(self) -> tuple[str, ...]:
        """Owners trained by the main optimiser, in order."""
        return (*PARTS, *self.objectives)

    def critics(self) -> tuple[str, ...]:
        """Owners trained by their own optimiser after the main step."""
        return tuple(f"{name}.critic" for name in self.adversaries())

    def check(self) -> None:
        """Checks that all objectives can run: they name views, and their parameters can be sharded.

        Raises:
            UsageError: An objective names no view or has an attribute of an earlier version, a block is
                tapped that the encoder lacks, or a parameter has no dimension.
        """
        self.encoder.check_layers(self.bottleneck.layers, "the bottleneck")
        for name, objective in self.objectives.items():
            layers = [layer for need in objective.views().values() for layer in need.layers]
            self.encoder.check_layers(layers, f"objective {name!r}")
            if not objective.views():
                raise UsageError(f"objective {name!r} names no view: its views() is empty")
            if isinstance(getattr(objective, "twins", None), tuple | list):
                raise UsageError(
                    f"objective {name!r}: the attribute `twins` of {type(objective).__name__} is now called "
                    "`teachers`; rename it"
                )
        for owner in self.owners():
            for name, parameter in self.parameters_of(owner).items():
                if parameter.ndim == 0:
                    raise UsageError(
                        f"{name} is a 0-D parameter, which can't be sharded; give it one element, as in "
                        "nn.Parameter(torch.tensor([1.0]))"
                    )

    def buffers(self) -> dict[str, Tensor]:
        """Full name -> persistent buffer of everything that a checkpoint keeps."""
        return {
            f"{prefix}.{name}": buffer
            for owner in (*self.owners(), *self.critics())
            for prefix, module in self.modules_of(owner)
            for name, buffer in persistent_buffers(module)
        } | {
            f"objectives.{name}.{key}": buffer
            for name, objective in self.objectives.items()
            for key, buffer in objective.named_buffers(recurse=False)
            if key not in objective._non_persistent_buffers_set
        }

    def teacher_of(self, module: nn.Module, asked_by: str) -> nn.Module:
        """The EMA copy of a student module.

        Raises:
            UsageError: There is none, as the objective that asks does not list the module in `teachers`.
        """
        for name, teacher in self.ema.items():
            if self.named(name) is module:
                return teacher
        raise UsageError(
            f"objective {asked_by!r} asks for the teacher of {type(module).__name__}, which has no EMA copy; "
            "list it in the objective's `teachers`"
        )

    def named(self, name: str) -> nn.Module:
        """The student module of a full name such as ``tokenizer.encoder`` or ``objectives.dino.head``."""
        root, _, rest = name.partition(".")
        if root == "tokenizer" and rest in PARTS:
            return self.part(rest)
        objective, _, child = rest.partition(".")
        if root == "objectives" and objective in self.objectives and child:
            return self.objectives[objective].get_submodule(child)
        raise UsageError(
            f"no module is called {name!r}; expected tokenizer.<part> or objectives.<name>.<child>"
        )


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def blocks_of(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks of an encoder, a decoder or any module with `blocks`, a method or an `nn.ModuleList`."""
    blocks: Callable[[], Sequence[nn.Module]] | nn.Module | None = getattr(module, "blocks", None)
    if isinstance(blocks, nn.ModuleList):
        return list(blocks)
    return blocks() if callable(blocks) and not isinstance(blocks, nn.Module) else ()


def persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, buffer) of the buffers that a state dict holds."""
    kept = set(module.state_dict(keep_vars=True))
    for name, buffer in module.named_buffers():
        if name in kept:
            yield name, buffer
