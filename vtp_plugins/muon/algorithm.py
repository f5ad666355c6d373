"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon), by torch's implementation."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from vtp_core.errors import UsageError
from vtp_core.schedule import Scheduled
from vtp_core.training.optim.algorithm import AdamW

if TYPE_CHECKING:
    from vtp_plugins.muon.config import MuonConfig

MATRICES = "muon"
"""Method of matrices; all others have AdamW's."""


class Muon(AdamW):
    """Muon for the matrices of blocks, AdamW for the rest.

    A matrix is orthogonalised whole, so sharded ones are refused. One that holds several projections, such as
    the queries, keys and values of a fused attention, counts as one matrix.
    """

    config: MuonConfig

    def method(self, parameter: Parameter, *, in_block: bool) -> str:
        """Matrices of blocks are Muon's hidden layers; embeddings, heads and vectors are AdamW's."""
        return MATRICES if in_block and parameter.ndim == 2 else "adamw"

    def lr(self, method: str) -> Scheduled:
        """`matrix_lr` for matrices."""
        own = self.config.matrix_lr if method == MATRICES else None
        return self.config.lr if own is None else own

    def build(self, method: str, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Builds torch's Muon or AdamW.

        Raises:
            UsageError: A matrix is sharded.
        """
        if method != MATRICES:
            return super().build(method, groups)
        if any(_is_sharded(parameter) for group in groups for parameter in group["params"]):
            raise UsageError(
                'optimizer.use = "muon" moves whole matrices, but parallel.shard splits them over ranks; '
                'set parallel.shard = 1, or optimizer.use = "adamw"'
            )
        return _LocalMuon(
            groups,
            lr=0.0,
            momentum=self.config.momentum,
            nesterov=self.config.nesterov,
            ns_steps=self.config.ns_steps,
            adjust_lr_fn=self.config.scaling,
        )

    def state(self, method: str, parameter: Parameter) -> dict[str, Tensor]:
        """The momentum of a matrix, AdamW's state of anything else."""
        if method != MATRICES:
            return super().state(method, parameter)
        return {"momentum_buffer": torch.zeros_like(parameter, memory_format=torch.preserve_format)}


class _LocalMuon(torch.optim.Muon):
    """torch's Muon on the local tensors of replicated DTensors, which hold the whole matrix.

    DTensors themselves give the same numbers in more than twice the time.
    """

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        complex_: bool = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        for tensors in (params_with_grad, grads, muon_momentum_bufs):
            tensors[:] = [each.to_local() if isinstance(each, DTensor) else each for each in tensors]
        return complex_


def _is_sharded(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor) and any(
        placement.is_shard() and parameter.device_mesh.size(dim) > 1
        for dim, placement in enumerate(parameter.placements)
    )
