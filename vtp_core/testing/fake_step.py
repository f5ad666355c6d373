"""A step without a run: the verbs of `Step` on tiny networks or on given tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_map_only, tree_map_with_path

from vtp_core.batch import Batch
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Reconstruction, Tokens
from vtp_core.parameters import Dims
from vtp_core.step import Step, Teacher
from vtp_core.testing.networks import TINY_DIMS, TinyNetworks
from vtp_core.testing.ranks import Ranks
from vtp_core.training.forward.seeds import generator
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed


class FakeStep(Step):
    """What an objective sees of one step, with nothing behind it but tiny networks.

    Verbs return leaf tensors; `cuts` names them, so that a test can look at their gradients. Where a test
    gives `features`, `latents` or `images`, these are used instead of what the tiny networks make.

    Args:
        batches: View -> this rank's rows, pixels float and normalised (`drawn_batch` makes them).
        needs: View -> what was declared; asking for more is an error. None allows everything.
        dims: Sizes of the tiny networks.
        world: The ranks; one by default.
        features: View -> features to use.
        latents: View -> latents to use.
        images: View -> reconstructed images to use.
        frozen: What `frozen` finds.
        shared: What `shared` finds.
        others: Norm of the gradient that other objectives left at every cut, for `balance`.
        index: Step index.
        total: Steps of the run.
        seed: Seed of networks and randomness.
    """

    def __init__(
        self,
        batches: Mapping[str, Batch],
        *,
        needs: Mapping[str, ViewNeed] | None = None,
        dims: Dims = TINY_DIMS,
        world: Ranks | None = None,
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
        self.index, self.total, self.seed = index, total, seed
        self.world: Ranks = World() if world is None else world
        self.rank, self.world_size = self.world.rank, self.world.size
        self.cuts: dict[str, Tensor] = {}
        self._batches, self._needs, self._others = batches, needs, others
        self._given = {"encode": features or {}, "tokenize": latents or {}, "reconstruct": images or {}}
        self._frozen, self._shared = frozen or {}, shared or {}
        self._memo: dict[tuple[object, ...], Any] = {}
        self._draws = 0
        self._networks = TinyNetworks(dims, seed).to(self._dtype())
        self.teacher = FakeTeacher(self, TinyNetworks(dims, seed + 1).to(self._dtype()))

    def batch(self, view: str) -> Batch:
        self._need(view)
        return self._batches[view]

    def encode(self, view: str, *, masked: bool = False, attached: bool = False) -> Features:
        need = self._need(view, masked=masked)
        if attached:
            return self.run_encoder(self._networks, view, need, masked)
        given = self._given["encode"].get(view)
        features: Features = self._cut(
            "encode", view, masked, lambda: given or self.run_encoder(self._networks, view, need, masked)
        )
        return features

    def tokenize(self, view: str, *, masked: bool = False) -> Latent:
        need = self._need(view, masked=masked)

        def run() -> Latent:
            features = self.run_encoder(self._networks, view, need, masked)
            latent: Latent = self._networks.bottleneck(features)
            return latent

        given = self._given["tokenize"].get(view)
        cut: Latent = self._cut("tokenize", view, masked, lambda: given or run())
        return cut

    def reconstruct(self, view: str) -> Reconstruction:
        latent = self.tokenize(view)
        given = self._given["reconstruct"].get(view)
        image = self._cut(
            "reconstruct", view, False, lambda: self._networks.decoder(latent.z) if given is None else given
        )
        return Reconstruction(image=image, latent=latent)

    def detached(self, view: str) -> Reconstruction:
        kept: Reconstruction = tree_map_only(Tensor, lambda x: x.detach(), self.reconstruct(view))
        return kept

    def frozen(self, name: str) -> nn.Module:
        if name not in self._frozen:
            raise UsageError(f"FakeStep has no frozen network {name!r}; pass frozen={{{name!r}: ...}}")
        return self._frozen[name]

    def shared(self, path: str) -> nn.Module:
        if path not in self._shared:
            raise UsageError(f"FakeStep has no shared module {path!r}; pass shared={{{path!r}: ...}}")
        return self._shared[path]

    def call(self, module: nn.Module, *rows: Any) -> Any:
        """The module's output, in the same graph."""
        return module(*rows)

    def gather(self, x: Tensor) -> Tensor:
        return self.world.gather(x)

    def sum(self, x: Tensor) -> Tensor:
        return self.world.sum(x)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.world.mean(values, weights)

    def confine(self, loss: Tensor, at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, at, retain_graph=True)
        linear = (at * gradient.detach()).sum()
        return loss.detach() + linear - linear.detach()

    def balance(
        self,
        loss: Tensor,
        at: Tensor,
        through: Literal["output", "last_layer"] = "output",
        *,
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> tuple[Tensor, Tensor]:
        """The confined term scaled to `others`, and the scale; `through` makes no difference here."""
        (gradient,) = torch.autograd.grad(loss, at, retain_graph=True)
        norm = self.sum(gradient.square().sum()).sqrt() / self.world_size
        weight = (self._others / (norm + eps)).clamp(0, limit)
        return self.confine(loss, at) * weight, weight

    def randn(self, rows: int, *shape: int) -> Tensor:
        return self._draw(torch.randn, rows, shape)

    def rand(self, rows: int, *shape: int) -> Tensor:
        return self._draw(torch.rand, rows, shape)

    def rng(self) -> torch.Generator:
        self._draws += 1
        return generator("fake step", self.seed, self.index, self._draws)

    def run_encoder(self, networks: TinyNetworks, view: str, need: ViewNeed, masked: bool) -> Features:
        """Features of the declared crops and layers of a view, in the graph of `networks`."""
        batch = self._batches[view]
        masks = batch.masks
        if masked and masks is None:
            raise UsageError(f"view {view!r} has no masks")
        mask = masks.mask if masked and masks is not None else None
        tokens: list[Tokens] = networks.encoder(
            [batch.crops[name] for name in need.crops],
            [mask if name == "global" else None for name in need.crops],
            layers=need.layers,
        )
        return Features(crops=dict(zip(need.crops, tokens, strict=True)))

    def need_of(self, view: str, *, masked: bool = False) -> ViewNeed:
        """What was declared of a view; an error if it, or its masks, were not."""
        return self._need(view, masked=masked)

    def _need(self, view: str, *, masked: bool = False) -> ViewNeed:
        if self._needs is None:
            return ViewNeed(crops=tuple(self._batches[view].crops), masked=True)
        if view not in self._needs:
            raise UsageError(f"view {view!r} is used but not declared: name it in config.views()")
        need = self._needs[view]
        if masked and not need.masked:
            raise UsageError(f"view {view!r} is used masked but not declared so: ViewNeed(masked=True)")
        return need

    def _cut(self, verb: str, view: str, masked: bool, run: Callable[[], Any]) -> Any:
        key = (verb, view, masked)
        if key not in self._memo:

            def leaf(path: Any, x: Any) -> Any:
                if not isinstance(x, Tensor):
                    return x
                x = x.detach()
                if x.is_floating_point():
                    x.requires_grad_()
                    self.cuts[f"{verb}({view}{', masked' if masked else ''}){keystr(path)}"] = x
                return x

            with torch.no_grad():
                tree = run()
            self._memo[key] = tree_map_with_path(leaf, tree)
        return self._memo[key]

    def _draw(self, make: Callable[..., Tensor], rows: int, shape: tuple[int, ...]) -> Tensor:
        numbers = make(rows * self.world_size, *shape, generator=self.rng())
        return numbers[self.rank :: self.world_size].to(self._dtype())

    def _dtype(self) -> torch.dtype:
        for batch in self._batches.values():
            for crop in batch.crops.values():
                return crop.dtype
        return torch.float32


class FakeTeacher(Teacher):
    """The EMA copies: other weights, no gradient, evaluation mode."""

    def __init__(self, step: FakeStep, networks: TinyNetworks) -> None:
        self._step, self._networks = step, networks.eval().requires_grad_(False)
        self._copies: dict[nn.Module, nn.Module] = {}

    @torch.no_grad()
    def encode(self, view: str) -> Features:
        return self._step.run_encoder(self._networks, view, self._step.need_of(view), False)

    @torch.no_grad()
    def tokenize(self, view: str) -> Latent:
        latent: Latent = self._networks.bottleneck(self.encode(view))
        return latent

    def own(self, module: nn.Module) -> nn.Module:
        if module not in self._copies:
            self._copies[module] = copy.deepcopy(module).eval().requires_grad_(False)
        return self._copies[module]
