"""The operator implementations of a run: chosen by its recipe, recorded in its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from vtp_core.ops import (
    AttentionChoice,
    AttentionKernel,
    Ranking,
    SearchChoice,
    SearchKernel,
    attention_choice,
    search_choice,
)
from vtp_core.ops.choice import Choice
from vtp_core.ops.installed import offered, offered_ranking
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.run import KernelsConfig

ChoiceT = TypeVar("ChoiceT", bound=Choice[Any])


@dataclass(frozen=True, kw_only=True)
class RunKernels:
    """The choices of a run.

    Attributes:
        attention: For `vtp_core.ops.vit_attention`.
        nearest_code: For `vtp_core.ops.nearest_code`.
    """

    attention: AttentionChoice
    nearest_code: SearchChoice

    def use_in(self, modules: Iterable[nn.Module]) -> None:
        """Hands the choices to modules with a method `use_attention` or `use_nearest_code`."""
        choices = {"use_attention": self.attention, "use_nearest_code": self.nearest_code}
        for module in modules:
            for method, choice in choices.items():
                if use := getattr(module, method, None):
                    use(choice)

    def record(self, device: torch.device) -> dict[str, Any]:
        """What a checkpoint keeps, JSON data for `keep`: what ``auto`` chose among on a device."""
        choices: tuple[Choice[Any], ...] = (self.attention, self.nearest_code)
        return {
            choice.operator: {
                "device": device.type,
                "names": [kernel.name for kernel in _usable(choice, device)],
                "ranking": None if choice.ranking is None else choice.ranking.data(),
            }
            for choice in choices
        }


def choose_kernels(config: KernelsConfig, plugins: Plugins, device: torch.device) -> RunKernels:
    """The implementations that ``[kernels]`` allows on a device.

    Raises:
        UsageError: There is no implementation of a name.
    """
    return RunKernels(
        attention=attention_choice(
            config.attention,
            offered(plugins, AttentionKernel),
            offered_ranking(plugins, AttentionChoice, device) if config.attention == "auto" else None,
        ),
        nearest_code=search_choice(
            config.nearest_code,
            offered(plugins, SearchKernel),
            offered_ranking(plugins, SearchChoice, device) if config.nearest_code == "auto" else None,
        ),
    )


def keep_kernels(
    chosen: RunKernels, config: KernelsConfig, extra: object, device: torch.device
) -> tuple[RunKernels, list[str]]:
    """The choices that a run began with, wherever ``auto`` chose and they can run here.

    Args:
        chosen: What `choose_kernels` chooses now.
        config: The present table; an operator that it names an implementation for stays as it says.
        extra: `Manifest.extra` of the checkpoint, untrusted; older versions recorded no kernels in it.
        device: Device of the resumed run.

    Returns:
        The choices, and one line for each operator whose implementations can't be kept, or are kept although
        ``auto`` would choose others now.
    """
    recorded = extra.get("kernels") if isinstance(extra, Mapping) else None
    attention, about_attention = _kept(chosen.attention, config.attention, recorded, device)
    nearest_code, about_search = _kept(chosen.nearest_code, config.nearest_code, recorded, device)
    lines = [line for line in (about_attention, about_search) if line]
    return RunKernels(attention=attention, nearest_code=nearest_code), lines


def _kept(choice: ChoiceT, asked: str, recorded: object, device: torch.device) -> tuple[ChoiceT, str | None]:
    table = recorded.get(choice.operator) if isinstance(recorded, Mapping) else None
    if asked != "auto" or table is None:
        return choice, None
    operator = f"kernels.{choice.operator}"
    try:
        began_on, names = table["device"], [str(name) for name in table["names"]]
        data = table["ranking"]
        ranking = None if data is None else Ranking.from_data(data, choice.attributes())
    except (KeyError, TypeError, ValueError) as error:
        return choice, f"{operator}: the checkpoint's record can't be read ({error}); chosen again"
    if began_on != device.type:
        return choice, f"{operator}: the run began on {began_on}; chosen again for {device.type}"
    here = {kernel.name: kernel for kernel in _usable(choice, device)}
    if not here.keys() & set(names):
        return choice, f"{operator}: the run began with {', '.join(names)}, none available here; chosen again"
    kept = replace(choice, kernels=tuple(here[name] for name in names if name in here), ranking=ranking)
    if lost := [name for name in names if name not in here]:
        rest = ", ".join(kernel.name for kernel in kept.kernels)
        return kept, f"{operator}: the run began with {', '.join(lost)}, not available here; left: {rest}"
    if kept.kernels == tuple(here.values()) and kept.ranking == choice.ranking:
        return choice, None
    return kept, f"{operator}: kept as the run began, among {', '.join(names)}; auto would now differ"


def _usable(choice: ChoiceT, device: torch.device) -> list[Any]:
    """The implementations that can run some case on a device."""
    return [it for it in choice.kernels if it.device in (None, device.type) and it.missing() is None]
