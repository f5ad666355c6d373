"""The algorithm of an optimiser: how gradients move parameters. AdamW is the core's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vtp_core.plugins import Plugins
from vtp_core.schedule import Scheduled

if TYPE_CHECKING:
    from vtp_core.config import OptimizerConfig
    from vtp_core.recipe.tables.optimizer import AdamWConfig


class OptimizerAlgorithm(ABC):
    """Base class of algorithms, built as ``Class(config)``.

    The core decides what is trained, sets learning rates and weight decays, clips gradients, clamps values
    and saves the state; an algorithm chooses a method for each parameter and builds torch optimisers.

    Args:
        config: The optimiser's table.
    """

    def __init__(self, config: OptimizerConfig) -> None:
        self.config = config

    def method(self, parameter: Parameter, *, in_block: bool) -> str:
        """Name of the method that moves a parameter; by default one for all, ``config.use``.

        Args:
            parameter: It may be sharded; its shape is that of the whole.
            in_block: Whether it is in a block of its network (`blocks` of an encoder, a decoder or a module
                of an objective), not in an embedding or a head.
        """
        return self.config.use

    def lr(self, method: str) -> Scheduled:
        """Learning rate of a method, before the factors of owners and rules; by default ``config.lr``."""
        return self.config.lr

    @abstractmethod
    def build(self, method: str, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimiser of one method.

        Args:
            method: Name of the method.
            groups: Parameter groups as torch takes them, each of plain tensors or of DTensors of one mesh.
                The core sets "lr" and "weight_decay" of each before every step.

        Raises:
            UsageError: It can't move these parameters.
        """

    @abstractmethod
    def state(self, method: str, parameter: Parameter) -> dict[str, Tensor]:
        """State of a parameter before the first step, under the keys that the torch optimiser uses.

        It exists from the start, so that checkpoints hold the same names at every step. Tensors of the
        parameter's shape are laid out as it is (``torch.zeros_like``).
        """


class AdamW(OptimizerAlgorithm):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's fused kernels where there are some."""

    config: AdamWConfig

    def build(self, method: str, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Builds torch's AdamW."""
        fused = all(_has_fused(parameter) for group in groups for parameter in group["params"])
        return torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=self.config.betas,
            eps=self.config.eps,
            fused=fused or None,
            foreach=None if fused else True,
        )

    def state(self, method: str, parameter: Parameter) -> dict[str, Tensor]:
        """Both moments and the count of steps."""
        device = parameter.device if _has_fused(parameter) else torch.device("cpu")
        return {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }


def _has_fused(parameter: Parameter) -> bool:
    return parameter.device.type in ("cpu", "cuda")


def find_algorithm(config: OptimizerConfig, plugins: Plugins | None) -> OptimizerAlgorithm:
    """Builds the algorithm that an optimiser's table names.

    Args:
        config: The table.
        plugins: Where it is looked up; None: only the core's own.

    Raises:
        UsageError: No plugin offers it.
    """
    offered = Plugins() if plugins is None else plugins
    target: type[OptimizerAlgorithm] = offered.find("optimizer", config.use).load_target()
    return target(config)
