"""The engine's `Step`: each verb as a request to the group's forwards, bound to the objective that is called.

What the verbs mean is documented in `vtp_core/step.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from vtp_core.batch import Batch
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Reconstruction
from vtp_core.step import Step, Teacher
from vtp_core.training.forward.balance import confined, last_layer_norms, output_norm, warn_alone
from vtp_core.training.forward.cut import split_rows, take_rows
from vtp_core.training.forward.forwards import Forwards, Role
from vtp_core.training.forward.pending import gradient_at, origin
from vtp_core.training.forward.seeds import derive_seed, generator, seeded
from vtp_core.view import ViewNeed


class EngineTeacher(Teacher):
    """The run's EMA copies."""

    def __init__(self, step: EngineStep) -> None:
        self._step = step

    @torch.no_grad()
    def encode(self, view: str) -> Features:
        return self._step._features("teacher", view, masked=False)

    @torch.no_grad()
    def tokenize(self, view: str) -> Latent:
        return self._step._latent("teacher", view, masked=False)

    def own(self, module: nn.Module) -> nn.Module:
        return self._step._forwards.networks.teacher_of(module, self._step.name)


class EngineStep(Step):
    """One step of a run, as one objective sees it.

    Args:
        forwards: The group's forwards.
        name: The objective's name in the recipe.
        needs: View -> what the objective asks of it.
        kept: View -> detached reconstruction of the main pass; given to `critic_loss` only.
    """

    def __init__(
        self,
        forwards: Forwards,
        name: str,
        needs: Mapping[str, ViewNeed],
        kept: Mapping[str, Reconstruction] | None = None,
    ) -> None:
        self.name, self._forwards, self._needs, self._kept = name, forwards, needs, kept
        self._world = forwards.world
        self._draws = 0
        self._batches: dict[str, Batch] = {}
        self.index, self.total = forwards.index, forwards.options.total
        self.rank, self.world_size = self._world.rank, self._world.size
        self.teacher = EngineTeacher(self)

    def batch(self, view: str) -> Batch:
        if view not in self._batches:
            need, batch = self._need(view), self._forwards.batches[view]
            own = batch if need.rows is None else batch.first(need.rows, self.world_size)
            # New tensors: a gradient with respect to these pixels does not reach other objectives'.
            self._batches[view] = replace(
                own, crops={name: crop.detach() for name, crop in own.crops.items()}
            )
        return self._batches[view]

    def encode(self, view: str, *, masked: bool = False, attached: bool = False) -> Features:
        return self._attached(view, masked) if attached else self._features("student", view, masked=masked)

    def tokenize(self, view: str, *, masked: bool = False) -> Latent:
        batch = self.batch(view)
        if batch.latent is not None and not batch.crops:
            return Latent.of_map(batch.latent)
        return self._latent("student", view, masked=masked)

    def reconstruct(self, view: str) -> Reconstruction:
        if self._kept is not None:
            raise UsageError(
                f"objective {self.name!r}: critic_loss may use step.detached(view), not step.reconstruct"
            )
        latent = self.tokenize(view)
        rows = latent.crops["global"].patches.shape[0]
        sources = self._forwards.latent_sources("student", view)
        forward = self._forwards.reconstruct(view, sources, rows=rows)
        return Reconstruction(image=forward.first(rows), latent=latent)

    def detached(self, view: str) -> Reconstruction:
        if self._kept is None or view not in self._kept:
            raise UsageError(
                f"objective {self.name!r}: no reconstruction of view {view!r} was made in the main pass"
            )
        rows, kept = len(self.batch(view)), self._kept[view]
        if len(kept.image) < rows:
            raise UsageError(
                f"objective {self.name!r}: critic_loss asks for {rows} rows of view {view!r}, the main pass "
                f"reconstructed {len(kept.image)}; let forward reconstruct them"
            )
        crops = take_rows(dict(kept.latent.crops), slice(0, rows))
        return Reconstruction(image=kept.image[:rows], latent=replace(kept.latent, crops=crops))

    def frozen(self, name: str) -> nn.Module:
        networks = self._forwards.networks.frozen
        if name not in networks:
            raise UsageError(f"objective {self.name!r} needs a frozen network; add a table [frozen.{name}]")
        return networks[name]

    @torch.no_grad()
    def frozen_features(self, name: str, view: str, layers: tuple[int, ...] = ()) -> Features:
        self._need(view)
        rows = len(self.batch(view))
        features: Features = self._forwards.encode_frozen(name, self.frozen(name), view, layers).first(rows)
        return features

    def call(self, module: nn.Module, *rows: Tensor) -> Tensor:
        chunk = self._forwards.options.microbatch_rows
        local = max(len(self.batch(view)) for view in self._needs)
        self._draws += 1
        outputs: Tensor = self._forwards.call(
            (self.name, self._draws), module, rows, parts=len(split_rows(0, local, chunk))
        )
        return outputs

    def shared(self, path: str) -> nn.Module:
        name, _, child = path.partition(".")
        owner = self._forwards.networks.objectives.get(name)
        if owner is None or child not in owner.shares:
            objectives = self._forwards.networks.objectives
            there = ", ".join(f"{each}.{module}" for each in objectives for module in objectives[each].shares)
            raise UsageError(
                f"objective {self.name!r}: no objective shares {path!r}; what is shared: {there or 'nothing'}"
            )
        module: nn.Module = owner.get_submodule(child)
        return module

    def gather(self, x: Tensor) -> Tensor:
        return self._world.gather(x)

    def sum(self, x: Tensor) -> Tensor:
        return self._world.sum(x)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        return self._world.mean(values, weights)

    def confine(self, loss: Tensor, at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, at)
        return confined(loss, at, gradient)

    def balance(
        self,
        loss: Tensor,
        at: Tensor,
        through: Literal["output", "last_layer"] = "output",
        *,
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> tuple[Tensor, Tensor]:
        forward, rows, position = origin(self._forwards.made, at)
        (own,) = torch.autograd.grad(loss, at)
        others, found = gradient_at(self._forwards.tape, forward, rows, position)
        if self.rank == 0 and not found:
            warn_alone(self.name)
        if through == "output":
            norms = [output_norm(gradient, self._world) for gradient in (others, own)]
        else:
            layer = self._forwards.networks.decoder.last_layer()
            norms = last_layer_norms(forward, layer, [others, own], self._world)
        weight = (norms[0] / (norms[1] + eps)).clamp(0, limit).detach()
        return confined(loss, at, own) * weight, weight

    def randn(self, rows: int, *shape: int) -> Tensor:
        return self._by_row(torch.randn(rows * self.world_size, *shape, generator=self._generator()))

    def rand(self, rows: int, *shape: int) -> Tensor:
        return self._by_row(torch.rand(rows * self.world_size, *shape, generator=self._generator()))

    def rng(self) -> torch.Generator:
        return self._generator()

    def _generator(self) -> torch.Generator:
        self._draws += 1
        return generator(
            self._forwards.options.seed, self.index, self.name, self._draws, self._kept is not None
        )

    def _by_row(self, values: Tensor) -> Tensor:
        return values[self.rank :: self.world_size].to(self._world.device)

    def _need(self, view: str, *, masked: bool = False) -> ViewNeed:
        if view not in self._needs:
            raise UsageError(
                f"objective {self.name!r} uses view {view!r}, which its views() does not declare"
            )
        need = self._needs[view]
        if masked and not need.masked:
            raise UsageError(
                f"objective {self.name!r} encodes view {view!r} masked, but does not declare it so: "
                "ViewNeed(masked=True)"
            )
        return need

    def _features(self, role: Role, view: str, *, masked: bool) -> Features:
        self._refuse_in_critic()
        self._need(view, masked=masked)
        rows = len(self.batch(view))
        module = self._module(role, "encoder")
        features: Features = self._forwards.encode(role, view, masked=masked, module=module).first(rows)
        return features

    def _latent(self, role: Role, view: str, *, masked: bool) -> Latent:
        self._refuse_in_critic()
        self._need(view, masked=masked)
        rows = len(self.batch(view))
        encoder, bottleneck = self._module(role, "encoder"), self._module(role, "bottleneck")
        forward = self._forwards.tokenize(
            role, view, masked=masked, rows=rows, encoder=encoder, module=bottleneck
        )
        return Latent(**forward.first(rows), aux=forward.mean("aux"), report=forward.mean("report"))

    def _attached(self, view: str, masked: bool) -> Features:
        self._refuse_in_critic()
        self._need(view, masked=masked)
        forwards = self._forwards
        forwards.keep_gathered(forwards.networks.encoder)
        inputs, crops, layers = forwards.encoder_inputs("student", view, masked, self.batch(view))
        drop_path = forwards.options.drop_path.get(view, 0.0)
        seed = derive_seed(forwards.options.seed, self.index, "attached", self.name, view, self.rank)
        with forwards.options.precision(self._world.device), seeded(seed):
            tokens = forwards.networks.encoder(
                inputs["images"], inputs["masks"], layers=layers, drop_path=drop_path
            )
        return Features(crops=dict(zip(crops, tokens, strict=True)))

    def _module(self, role: Role, part: str) -> nn.Module:
        module = self._forwards.networks.part(part)
        return module if role == "student" else self._forwards.networks.teacher_of(module, self.name)

    def _refuse_in_critic(self) -> None:
        if self._kept is not None:
            raise UsageError(f"objective {self.name!r}: critic_loss may not run the shared networks")
