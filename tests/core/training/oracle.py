"""The joint step written the plain way, as an oracle: no cuts, no memory saved, one summed backward.

Independent of `vtp_core.training.{cut,forwards,step,joint}`; it shares only the seeding convention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.core.training.toy import batches as make_batches
from vtp_core.features import Features, Latent, Reconstruction
from vtp_core.training.forward.seeds import generator, seeded
from vtp_core.training.groups import build_groups
from vtp_core.training.networks import Networks


class OracleStep:
    rank, world_size, total = 0, 1, 10

    def __init__(self, run: OracleRun, name: str, index: int, kept=None) -> None:
        self.run, self.name, self.index, self.kept, self.draws = run, name, index, kept, 0
        self.objective = run.networks.objectives[name]
        self.needs = self.objective.views()
        self.teacher = self if kept == "teacher" else OracleStep(run, name, index, "teacher")

    def rows(self, view):
        return self.needs[view].rows or len(self.run.batches[view])

    def batch(self, view):
        return self.run.batches[view].first(self.rows(view), 1)

    def net(self, part):
        module = self.run.networks.part(part)
        return self.run.networks.teacher_of(module, self.name) if self.kept == "teacher" else module

    def own(self, module):
        return self.run.networks.teacher_of(module, self.name)

    def encode(self, view, *, masked=False, attached=False):
        del attached
        return self.first(self.run.encode(self, view, masked), self.rows(view))

    def tokenize(self, view, *, masked=False):
        latent, aux = self.run.tokenize(self, view, masked)
        return Latent(crops=self.first(latent.crops, self.rows(view)), aux=aux)

    def reconstruct(self, view):
        every, _ = self.run.tokenize(self, view, False)
        self.whole = self.run.once(("image", view), lambda: self.net("decoder")(every.z))
        self.run.images[view] = self.whole.detach()
        return Reconstruction(image=self.whole[: self.rows(view)], latent=self.tokenize(view))

    def detached(self, view):
        image = self.run.images[view][: self.rows(view)]
        return Reconstruction(image=image, latent=Latent(crops={}))

    @staticmethod
    def first(tree, rows):
        return tree_map(lambda x: x[:rows] if isinstance(x, Tensor) else x, tree)

    def frozen(self, name):
        return self.run.networks.frozen[name]

    def call(self, module, *rows):
        self.draws += 1
        return module(*rows)

    def shared(self, path):
        name, child = path.split(".")
        return getattr(self.run.networks.objectives[name], child)

    def gather(self, x):
        return x

    def sum(self, x):
        return x.detach()

    def mean(self, values, weights=None):
        weights = torch.ones_like(values) if weights is None else weights
        return (values * weights).sum() / weights.sum() if weights.sum() > 0 else (values * weights).sum()

    def confine(self, loss, at):
        (grad,) = torch.autograd.grad(loss, at, retain_graph=True)
        return loss.detach() + ((at - at.detach()) * grad).sum()

    def balance(self, loss, at, through="output", eps=1e-4, limit=1e4):
        (own,) = torch.autograd.grad(loss, at, retain_graph=True)
        where = self.whole if through == "output" else self.run.networks.decoder.last_layer().weight
        others = torch.autograd.grad(self.run.group_total, where, retain_graph=True, allow_unused=True)[0]
        others = torch.zeros_like(where) if others is None else others
        others = others[: len(at)] if through == "output" else others
        here = own if through == "output" else torch.autograd.grad(loss, where, retain_graph=True)[0]
        weight = (others.norm() / (here.norm() + eps)).clamp(0, limit)
        return weight * (loss.detach() + ((at - at.detach()) * own).sum()), weight

    def randn(self, rows, *shape):
        return torch.randn(rows, *shape, generator=self._generator())

    def rand(self, rows, *shape):
        return torch.rand(rows, *shape, generator=self._generator())

    def _generator(self):
        self.draws += 1
        return generator(self.run.seed, self.index, self.name, self.draws, False)


class OracleRun:
    """One process, the whole batch; `chunk` runs networks in row chunks with all graphs kept."""

    def __init__(self, networks: Networks, *, seed=0, chunk=None, drop_path=0.0) -> None:
        self.networks, self.seed, self.chunk, self.drop_path = networks, seed, chunk, drop_path
        self.needs = {name: o.views() for name, o in networks.objectives.items()}

    def __call__(self, index: int = 0) -> dict[str, float]:
        self.batches, self.images, totals, values = make_batches(index), {}, [], {}
        self.tallies: dict[str, list] = {}
        critics = [p for a in self.networks.adversaries().values() for p in a.critic.parameters()]
        for parameter in critics:
            parameter.requires_grad_(False)
        for group in build_groups(self.needs, last=self.networks.adversaries()):
            self.memo, self.group, self.auxes = {}, group, {}
            self.group_total = torch.zeros((), dtype=torch.float64)
            for name in group.objectives:
                objective = self.networks.objectives[name]
                losses = objective(OracleStep(self, name, index))
                values.update({f"{name}/{term}": value.item() for term, value in losses.terms.items()})
                if losses.tally is not None:
                    self.tallies.setdefault(name, []).append(losses.tally)
                self.group_total = self.group_total + objective.config.weight * losses.total()
            totals.append(self.group_total + sum(self.auxes.values()))
        sum(totals).backward()
        for parameter in critics:
            parameter.requires_grad_(True)
        for name, adversary in self.networks.adversaries().items():
            adversary.critic_loss(OracleStep(self, name, index)).total().backward()
        return values

    def once(self, key, compute):
        key = (*key, torch.is_grad_enabled())
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]

    def union(self, view):
        needs = [self.needs[name][view] for name in self.group.objectives if view in self.needs[name]]
        crops = tuple(dict.fromkeys(c for need in needs for c in need.crops))
        return crops, tuple(sorted({layer for need in needs for layer in need.layers}))

    def chunked(self, key, rows, compute):
        size = self.chunk or rows
        parts = []
        for start in range(0, rows, size):
            with seeded(self.seed, *key, start, 0):
                parts.append(compute(slice(start, min(start + size, rows))))
        flat = [tree_flatten(part)[0] for part in parts]
        joined = [
            torch.cat(column) if isinstance(column[0], Tensor) else column[0]
            for column in zip(*flat, strict=True)
        ]
        return tree_unflatten(joined, tree_flatten(parts[0])[1])

    def encode(self, step, view, masked):
        role = "teacher" if step.kept == "teacher" else "student"
        crops, layers = self.union(view)
        crops = ("global",) if role == "teacher" else crops
        batch, drop = self.batches[view], 0.0 if role == "teacher" else self.drop_path

        def compute(rows):
            masks = [batch.masks.mask[rows] if masked and c == "global" else None for c in crops]
            tokens = step.net("encoder")(
                [batch.crops[c][rows] for c in crops], masks, layers=layers, drop_path=drop
            )
            return Features(crops=dict(zip(crops, tokens, strict=True)))

        key = (step.index, role, "encode", view, masked)
        return self.once(("features", role, view, masked), lambda: self.chunked(key, len(batch), compute))

    def tokenize(self, step, view, masked):
        role = "teacher" if step.kept == "teacher" else "student"
        needed = max(
            need[view].rows or len(self.batches[view]) for need in self.needs.values() if view in need
        )
        features = self.encode(step, view, masked)
        # The aux terms are means over all rows that anybody tokenizes.
        latent = self.once(
            ("latent", role, view, masked), lambda: step.net("bottleneck")(step.first(features, needed))
        )
        if role == "student" and latent.aux:
            for name, value in latent.aux.items():
                self.auxes[(view, masked, name)] = value
            if latent.tally is not None and ("seen", view, masked) not in self.memo:
                self.memo[("seen", view, masked)] = True
                self.tallies.setdefault("bottleneck", []).append(latent.tally)
        return latent, latent.aux
