"""What a real step at full size takes: the oracle of a plan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run.setup import build
from vtp_core.training.groups import group_needs
from vtp_core.training.joint import JointStep
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import wrap
from vtp_core.training.ranks.world import World
from vtp_plugins.plan.drawn import drawn_batches
from vtp_plugins.plan.shrink import plannable


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive, as an allocator would."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def run_step(
    recipe: Recipe,
    plugins: Plugins,
    *,
    around: AbstractContextManager[object],
    around_step: Callable[[], AbstractContextManager[object]],
) -> None:
    """Builds everything within `around` and makes one step, within `around_step` too."""
    recipe = plannable(recipe, recipe.kernels.attention)
    with around:
        networks, dims = build.build_run_networks(recipe, plugins)
        build.apply_freezes(networks, recipe)
        ema = build.build_run_ema(networks, recipe)
        wrap(networks, None, activation_checkpoint=recipe.parallel.activation_checkpoint)
        optimizer, _ = build.build_optimizers(networks, recipe, plugins)
        joint = JointStep(networks, World(), build.forward_options(recipe))
        joint.update = Update(networks, World(), optimizer, ema, Guard(0), recipe.run.steps, audited=False)
        batches = {}
        for view, need in group_needs(joint.needs, joint.needs).items():
            rows = recipe.views[view].rows if need.rows is None else need.rows
            batches |= drawn_batches(recipe, {view: need}, dims, rows)
        with around_step():
            assert joint(batches, 0).skipped is None
