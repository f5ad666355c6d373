"""A step without a run: the engine's `Step` on tiny networks, or on given tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from vtp_core.batch import Batch
from vtp_core.features import Features, Latent, Losses
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.testing.networks import TINY_DIMS, name_of, tiny_run
from vtp_core.testing.others import Others
from vtp_core.training.forward.cut import Part, Tree
from vtp_core.training.forward.forward import Forward
from vtp_core.training.forward.forwards import Forwards, Role
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.optim.ema import build_ema
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed


class FakeStep(EngineStep):
    """What an objective sees of one step; it refuses what a run refuses.

    The outputs of verbs are leaf tensors, `cuts` names them. Call `backward` with the losses to get the
    gradients there and in the objective's own modules.

    Args:
        batches: View -> this rank's rows, pixels float and normalised (`drawn_batch` makes them).
        objective: The objective under test: what its step may serve follows from it. None allows every verb
            on `batches`, but gives no objective of its own a teacher.
        dims: Sizes of the tiny networks.
        world: The ranks; one by default.
        features: View -> features to serve in place of what the tiny encoder makes.
        latents: View -> latents to serve.
        images: View -> reconstructed images to serve.
        frozen: What `frozen` finds.
        shared: What `shared` finds: ``"dino.head"`` -> module.
        others: Norm of the gradient that other objectives left at every cut, for `balance`.
        index: Step index.
        total: Steps of the run.
        seed: Seed of networks and randomness.
    """

    def __init__(
        self,
        batches: Mapping[str, Batch],
        objective: Objective | None = None,
        *,
        dims: Dims = TINY_DIMS,
        world: World | None = None,
        features: Mapping[str, Features] | None = None,
        latents: Mapping[str, Latent] | None = None,
        images: Mapping[str, Tensor] | None = None,
        frozen: Mapping[str, nn.Module] | None = None,
        shared: Mapping[str, nn.Module] | None = None,
        others: float = 1.0,
        index: int = 0,
        total: int = 100,
        seed: int = 0,
    ) -> None:
        world = World() if world is None else world
        needs = {view: _everything(batch) for view, batch in batches.items()}
        if objective is not None:
            needs = dict(objective.views())
        networks = tiny_run(objective, dims, frozen=frozen, shared=shared, dtype=_dtype(batches), seed=seed)
        build_ema(networks, 0.99)
        self._others = Others(world, others)
        options = ForwardOptions(seed=seed, total=total, observer=self._others)
        given = {"encode": features or {}, "tokenize": latents or {}, "reconstruct": images or {}}
        forwards = _GivenForwards(networks, world, batches, needs, options, index)
        forwards.trees = {verb: dict(trees) for verb, trees in given.items()}
        super().__init__(forwards, "objective" if objective is None else name_of(objective), needs)

    @property
    def cuts(self) -> dict[str, Tensor]:
        """Leaf tensors that take a gradient, named as in ``encode(main, masked).crops['global'].cls``."""
        found = {}
        for (role, verb, view, masked, *_), forward in self._forwards._memo.items():
            for cut in forward.cuts if role == "student" else ():
                for path, leaf in tree_flatten_with_path(cut.outputs)[0]:
                    if isinstance(leaf, Tensor) and leaf.requires_grad:
                        found[f"{verb}({view}{', masked' if masked else ''}){keystr(path)}"] = leaf
        return found

    def backward(self, losses: Losses | Tensor) -> None:
        """Differentiates the sum of the terms, or a scalar, down to the cuts and through `call`."""
        self._others.clear()
        self._forwards.backward_loss(losses.total() if isinstance(losses, Losses) else losses)

    def critic_step(self) -> EngineStep:
        """The step that `critic_loss` gets after this one."""
        return EngineStep(self._forwards, self.name, self._needs, self._forwards.reconstructions())


class _GivenForwards(Forwards):
    """Forwards that serve given trees in the place of what networks make.

    Attributes:
        trees: Verb -> view -> tree.
    """

    trees: Mapping[str, Mapping[str, Any]]

    def encode(self, role: Role, view: str, *, masked: bool, module: nn.Module) -> Forward:
        """Features of a view."""
        if role == "student" and view in self.trees["encode"]:
            return self._serve("encode", view, masked, self.trees["encode"][view], module)
        return super().encode(role, view, masked=masked, module=module)

    def tokenize(
        self, role: Role, view: str, *, masked: bool, rows: int, encoder: nn.Module, module: nn.Module
    ) -> Forward:
        """Latent tokens of a view."""
        if role == "student" and view in self.trees["tokenize"]:
            latent: Latent = self.trees["tokenize"][view]
            tree = {"crops": dict(latent.crops), "codes": latent.codes, "logvar": latent.logvar}
            return self._serve("tokenize", view, masked, tree, module)
        return super().tokenize(role, view, masked=masked, rows=rows, encoder=encoder, module=module)

    def reconstruct(self, view: str, sources: Sequence[tuple[int, Tree]], *, rows: int) -> Forward:
        """Images of a view."""
        if view in self.trees["reconstruct"]:
            image = self.trees["reconstruct"][view]
            return self._serve("reconstruct", view, False, image, self.networks.decoder)
        return super().reconstruct(view, sources, rows=rows)

    def _serve(self, verb: str, view: str, masked: bool, tree: Tree, module: nn.Module) -> Forward:
        rows = self.rows(view, self.needs[view])
        return self._extend(
            ("student", verb, view, masked), rows, [(0, {})], lambda _: Part(rows=tree), module
        )


def _everything(batch: Batch) -> ViewNeed:
    return ViewNeed(crops=tuple(batch.crops), masked=True)


def _dtype(batches: Mapping[str, Batch]) -> torch.dtype:
    return next((crop.dtype for batch in batches.values() for crop in batch.crops.values()), torch.float32)
