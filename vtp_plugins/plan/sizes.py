"""Parameters of the full networks, counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vtp_core.errors import VtpError
from vtp_core.run.setup import build
from vtp_core.schedule import Scheduled
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.optim.optimizer import RuleRow
from vtp_core.training.optim.owners import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vtp_core.parameters import Dims
    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class OwnerSize:
    """Parameters of one owner.

    Attributes:
        name: A tokenizer part, an objective, or ``<objective>.critic``.
        parameters: Elements, frozen ones included.
        trainable: Elements that an optimiser moves.
        sharded: Elements that ranks share under ``parallel.shard``; the others are replicated.
        bytes: Of all parameters and buffers.
        state: Bytes of the optimiser's state.
    """

    name: str
    parameters: int
    trainable: int
    sharded: int
    bytes: int
    state: int


@dataclass(frozen=True, kw_only=True)
class TeacherSize:
    """An EMA copy.

    Attributes:
        name: Its student, such as ``tokenizer.encoder``.
        parameters: Elements.
        bytes: Of all parameters and buffers.
        first: Momentum at the first step.
        last: Momentum at the last step.
    """

    name: str
    parameters: int
    bytes: int
    first: float
    last: float


@dataclass(frozen=True, kw_only=True)
class FrozenSize:
    """A network that is never trained, held whole by every rank.

    Attributes:
        name: ``frozen.<name>`` or ``objectives.<name>.<child>``.
        parameters: Elements.
        bytes: Of all parameters and buffers.
    """

    name: str
    parameters: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all networks of a run.

    Attributes:
        dims: Sizes that the components share.
        owners: Main owners, then critics.
        rules: How the optimisers treat parameters.
        teachers: EMA copies.
        frozen: Frozen networks.
        largest_unit: Bytes of the largest module that is gathered at a time under ``parallel.shard``.
        note: Why parameters were counted on the CPU, or "".
    """

    dims: Dims
    owners: tuple[OwnerSize, ...]
    rules: tuple[RuleRow, ...]
    teachers: tuple[TeacherSize, ...]
    frozen: tuple[FrozenSize, ...]
    largest_unit: int
    note: str


def measure_sizes(recipe: Recipe, plugins: Plugins) -> Sizes:
    """Builds the networks in full on torch's meta device, which holds no values, and counts.

    If a component can't be built there, all are built on the CPU instead, and `Sizes.note` says so.

    Args:
        recipe: What `shrink.plannable` returned, with its own depths.
        plugins: Where its components come from.
    """
    note = ""
    try:
        with torch.device("meta"):
            networks, dims = build.build_run_networks(recipe, plugins, load_frozen=False)
    except VtpError:
        raise
    except Exception as error:  # any component, any failure: the networks themselves decide below
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        note = f"parameters were counted on networks in full on the CPU, as the meta device failed ({reason})"
        networks, dims = build.build_run_networks(recipe, plugins, load_frozen=False)
    build.apply_freezes(networks, recipe)
    ema = build.build_run_ema(networks, recipe)
    main, critics = build.build_optimizers(networks, recipe, plugins)
    total = recipe.run.steps
    return Sizes(
        dims=dims,
        owners=tuple(
            _owner(networks, owner, optimizer.state_bytes()[owner.name])
            for optimizer in (main, *critics.values())
            for owner in optimizer.owners
        ),
        rules=tuple(main.describe()),
        teachers=tuple(
            TeacherSize(
                name=name,
                parameters=_elements(module.parameters()),
                bytes=_bytes(module),
                first=ema.momentum(name, 0, total),
                last=ema.momentum(name, max(total - 1, 0), total),
            )
            for name, module in ema.modules.items()
        )
        if ema is not None
        else (),
        frozen=tuple(_frozen(networks)),
        largest_unit=max((_bytes(unit) for unit in _units(networks)), default=0),
        note=note,
    )


def show(scheduled: Scheduled) -> str:
    """A factor or schedule on one line."""
    if isinstance(scheduled, int | float):
        return f"{scheduled:.4g}"
    values: Mapping[str, Any] = scheduled.model_dump(exclude_defaults=True)
    return f"{scheduled.kind}({', '.join(f'{k}={v}' for k, v in values.items() if k != 'kind')})"


def _owner(networks: Networks, owner: Owner, state: int) -> OwnerSize:
    modules = list(networks.modules_of(owner.name))
    in_modules = sum(_elements(module.parameters()) for _, module in modules)
    whole = _elements(owner.parameters.values())
    return OwnerSize(
        name=owner.name,
        parameters=whole,
        trainable=_elements(owner.trained().values()),
        sharded=0 if owner.name.endswith(".critic") else in_modules,
        bytes=sum(_bytes(module) for _, module in modules)
        + sum(p.numel() * p.element_size() for name, p in _direct(networks, owner).items()),
        state=state,
    )


def _direct(networks: Networks, owner: Owner) -> dict[str, Tensor]:
    if owner.name not in networks.objectives:
        return {}
    return dict(networks.objectives[owner.name].named_parameters(recurse=False))


def _frozen(networks: Networks) -> Iterable[FrozenSize]:
    found = {f"frozen.{name}": module for name, module in networks.frozen.items()}
    for helper in sorted(networks.helpers):
        found[f"objectives.{helper}"] = networks.named(f"objectives.{helper}")
    for name, module in found.items():
        yield FrozenSize(name=name, parameters=_elements(module.parameters()), bytes=_bytes(module))


def _units(networks: Networks) -> Iterable[nn.Module]:
    for part in PARTS:
        module = networks.part(part)
        yield from (getattr(module, "blocks", tuple)() or (module,))
    for objective in networks.objectives:
        yield from (module for _, module in networks.children_of(objective))


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(module: nn.Module) -> int:
    return sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))
