"""The forwards of one group in one step: each network runs once for all objectives that ask.

A forward grows with what is asked: after 4 decoded rows, an objective that needs 8 adds the other 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_map_only

from vtp_core.batch import Batch
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Reconstruction, Tally
from vtp_core.math.row_noise import row_seeds
from vtp_core.training.forward.cut import Cut, Part, Tree, even_split, join_rows, split_rows, take_rows
from vtp_core.training.forward.forward import Forward
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.seeds import derive_seed, seeded
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

Role = Literal["student", "teacher"]


class Forwards:
    """The forwards of one group in one step.

    Args:
        networks: The run's modules.
        world: This rank.
        batches: View -> this rank's rows, on the device, normalised.
        needs: View -> union of what the active objectives of the group ask.
        options: Seed, chunks and precision.
        index: The step.
    """

    def __init__(
        self,
        networks: Networks,
        world: World,
        batches: Mapping[str, Batch],
        needs: Mapping[str, ViewNeed],
        options: ForwardOptions,
        index: int,
    ) -> None:
        self.networks, self.world, self.batches, self.needs = networks, world, batches, needs
        self.options, self.index = options, index
        self._memo: dict[tuple[object, ...], Forward] = {}
        self.tape: list[tuple[Cut, Forward]] = []
        self._calls: list[Cut] = []
        self._gathered: list[FSDPModule] = []

    @property
    def made(self) -> Iterable[Forward]:
        """The forwards so far."""
        return self._memo.values()

    def rows(self, view: str, need: ViewNeed) -> int:
        """Local rows of a view that a need covers."""
        batch = self.batches[view]
        return len(batch) if need.rows is None else len(batch.first(need.rows, self.world.size))

    def encoder_inputs(
        self, role: Role, view: str, masked: bool, batch: Batch
    ) -> tuple[dict[str, list[Tensor | None]], tuple[str, ...], tuple[int, ...]]:
        """Images and masks a crop set, the crop sets' names, and the blocks to tap."""
        need = self.needs[view]
        crops = need.crops if role == "student" else ("global",)
        masks = [batch.masks.mask if masked and name == "global" and batch.masks else None for name in crops]
        layers = tuple(sorted({*need.layers, *self.networks.bottleneck.layers}))
        return {"images": [batch.crops[name] for name in crops], "masks": masks}, crops, layers

    def encode(self, role: Role, view: str, *, masked: bool, module: nn.Module) -> Forward:
        """Features of all rows that the group uses of a view; the teacher sees global crops only."""
        inputs, crops, layers = self.encoder_inputs(role, view, masked, self.batches[view])
        drop_path = self.options.drop_path.get(view, 0.0) if role == "student" else 0.0

        def network(rows: Tree) -> Part:
            tokens = module(rows["images"], rows["masks"], layers=layers, drop_path=drop_path)
            return Part(rows=Features(crops=dict(zip(crops, tokens, strict=True))))

        key = (role, "encode", view, masked)
        return self._extend(key, self.rows(view, self.needs[view]), [(0, inputs)], network, module)

    def encode_frozen(self, name: str, module: nn.Module, view: str, layers: tuple[int, ...]) -> Forward:
        """Features that a frozen encoder makes of the global crops of all rows that the group uses."""
        batch = self.batches[view]

        def network(rows: Tree) -> Part:
            (tokens,) = module([rows["image"]], [None], layers=layers)
            return Part(rows=Features(crops={"global": tokens}))

        key = ("frozen", "encode", view, name, layers)  # the view where all forwards have it
        sources = [(0, {"image": batch.crops["global"]})]
        return self._extend(key, self.rows(view, self.needs[view]), sources, network, module)

    def tokenize(
        self, role: Role, view: str, *, masked: bool, rows: int, encoder: nn.Module, module: nn.Module
    ) -> Forward:
        """Latent tokens of the first `rows` local rows of a view."""
        encoded = self.encode(role, view, masked=masked, module=encoder)

        def network(tree: Tree) -> Part:
            latent: Latent = module(replace(tree["features"], seeds=tree["seeds"]))
            kept = {"crops": dict(latent.crops), "codes": latent.codes, "logvar": latent.logvar}
            return Part(rows=kept, aux=latent.aux, report=latent.report, tally=latent.tally)

        key = (role, "tokenize", view, masked)
        sources = [
            (start, {"features": cut.outputs, "seeds": self._row_seeds(key, start, cut.row_count)})
            for start, cut in zip(encoded.starts, encoded.cuts, strict=True)
        ]
        return self._extend(key, rows, sources, network, module)

    def latent_sources(self, role: Role, view: str) -> list[tuple[int, Tree]]:
        """(first row, tokens of the global crops) of each cut that `tokenize` made for a view."""
        batch = self.batches[view]
        if batch.latent is not None and not batch.crops:
            return [(0, Latent.of_map(batch.latent)["global"])]
        forward = self._memo[(role, "tokenize", view, False, torch.is_grad_enabled())]
        starts = zip(forward.starts, forward.cuts, strict=True)
        return [(start, cut.outputs["crops"]["global"]) for start, cut in starts]

    def reconstruct(self, view: str, sources: Sequence[tuple[int, Tree]], *, rows: int) -> Forward:
        """Images of the first `rows` local rows of a view, from (first row, latent tokens)."""
        bottleneck, decoder = self.networks.bottleneck, self.networks.decoder

        def network(tree: Tree) -> Part:
            z = Latent(crops={"global": tree["tokens"]}).z
            return Part(rows=decoder(bottleneck.decoder_input(z, tree["seeds"])))

        key = ("student", "reconstruct", view, False)
        seeded_sources = [
            (start, {"tokens": tokens, "seeds": self._row_seeds(key, start, len(tokens.patches))})
            for start, tokens in sources
        ]
        return self._extend(key, rows, seeded_sources, network, decoder)

    def call(
        self, key: tuple[object, ...], module: nn.Module, inputs: tuple[Tensor, ...], parts: int
    ) -> Tree:
        """An own or shared module of an objective as a cut point, in equally many chunks on every rank.

        Raises:
            UsageError: It returns no tensor, nor a tuple, dict or registered dataclass of tensors.
        """

        def network(rows: Tree) -> Part:
            return Part(rows=module(*rows))

        chunks = even_split(len(inputs[0]), parts)
        cut = self._cut(("student", "call", *key), chunks, inputs, network, module, 0)
        if not cut.leaves():
            raise UsageError(
                f"step.call: {type(module).__name__} returned {type(cut.outputs).__name__}, in which no "
                "tensor is found; return tensors, tuples, dicts or dataclasses registered as pytrees"
            )
        self._calls.append(cut)
        return cut.outputs

    def backward_loss(self, loss: Tensor) -> None:
        """Differentiates an objective's loss down to the cut points, through the modules that it called."""
        if loss.requires_grad:
            torch.autograd.backward(loss, retain_graph=bool(self._calls))
        while self._calls:
            self._calls.pop().backward()

    def backward(self) -> None:
        """Runs the cuts backward in reverse order and drops them."""
        while self.tape:
            cut, forward = self.tape.pop()
            cut.backward(cut.row_count / max(forward.rows, 1))

    def keep_gathered(self, module: nn.Module) -> None:
        """Keeps a sharded module's parameters whole until `close`: a second derivative reads them twice."""
        for unit in (unit for unit in module.modules() if isinstance(unit, FSDPModule)):
            unit.set_reshard_after_forward(False, recurse=False)
            unit.set_reshard_after_backward(False, recurse=False)
            self._gathered.append(unit)

    def close(self) -> None:
        """Drops all outputs and reshards."""
        for unit in self._gathered:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.set_reshard_after_backward(True, recurse=False)
            unit.reshard()
        self._gathered.clear()
        self._calls.clear()
        self.tape.clear()
        self._memo.clear()

    def aux(self) -> dict[str, Tensor]:
        """The bottleneck's own loss terms, added over the student's tokenize calls."""
        totals: dict[str, Tensor] = {}
        for forward in self._student_tokenizes():
            for name, value in forward.mean("aux").items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value
        return totals

    def report(self) -> dict[str, Tensor]:
        """The bottleneck's logged scalars; of the last tokenize call where several report one name."""
        return {
            name: value
            for forward in self._student_tokenizes()
            for name, value in forward.mean("report").items()
        }

    def reconstructions(self) -> dict[str, Reconstruction]:
        """View -> the student's reconstruction without its graph."""
        kept = {}
        for key, forward in self._memo.items():
            if key[:2] == ("student", "reconstruct") and key[-1]:
                view = str(key[2])
                trees = [tree for _, tree in self.latent_sources("student", view)]
                tokens = take_rows(join_rows(trees), slice(0, forward.rows))
                latent = Latent(crops={"global": tree_map_only(Tensor, Tensor.detach, tokens)})
                kept[view] = Reconstruction(image=forward.first(forward.rows).detach(), latent=latent)
        return kept

    def tallies(self) -> list[Tally]:
        """The bottleneck's statistics of the student's tokenize calls."""
        cuts = [cut for forward in self._student_tokenizes() for cut in forward.cuts]
        return [tally for cut in cuts for tally in cut.tallies]

    def leaves(self) -> dict[str, list[Tensor]]:
        """Cut name -> its leaves that take a gradient."""
        found: dict[str, list[Tensor]] = {}
        for key, forward in self._memo.items():
            if key[0] == "student" and key[-1]:
                tensors = [leaf for cut in forward.cuts for leaf in cut.leaves() if leaf.requires_grad]
                found.setdefault(f"{key[1]}.{key[2]}", []).extend(tensors)
        return found

    def _row_seeds(self, key: tuple[object, ...], start: int, rows: int) -> Tensor:
        """Seeds of the local rows from `start` on, the same at any world size."""
        device = self.world.device
        numbers = (torch.arange(rows, device=device) + start) * self.world.size + self.world.rank
        return row_seeds(derive_seed(self.options.seed, self.index, *key), numbers)

    def _student_tokenizes(self) -> list[Forward]:
        return [f for key, f in self._memo.items() if key[:2] == ("student", "tokenize") and key[-1]]

    def _extend(
        self,
        key: tuple[object, ...],
        rows: int,
        sources: Sequence[tuple[int, Tree]],
        network: Callable[[Tree], Part],
        module: nn.Module,
    ) -> Forward:
        """The forward of `key`, grown to `rows`; each source is (its first row, its tree)."""
        self.options.observer.asked(key)
        forward = self._memo.setdefault((*key, torch.is_grad_enabled()), Forward())
        bounds = [*(start for start, _ in sources[1:]), rows]
        for (start, tree), stop in zip(sources, bounds, strict=True):
            first, last = max(forward.rows, start), min(stop, rows)
            if first >= last and (forward.cuts or rows > 0):
                continue
            chunks = split_rows(first - start, last - start, self.options.microbatch_rows)
            cut = self._cut(key, chunks, tree, network, module, start)
            self.tape.append((cut, forward))
            forward.cuts.append(cut)
            forward.starts.append(first)
            forward.rows = last
        return forward

    def _cut(
        self,
        key: tuple[object, ...],
        chunks: list[slice],
        inputs: Tree,
        network: Callable[[Tree], Part],
        module: nn.Module,
        start: int,
    ) -> Cut:
        def precise(rows: Tree) -> Part:
            with self.options.precision(self.world.device):
                return network(rows)

        cut = Cut(
            precise,
            inputs,
            chunks,
            seeded=lambda row: seeded(self.options.seed, self.index, *key, start + row, self.world.rank),
            trains=any(parameter.requires_grad for parameter in module.parameters()),
            units=[module],
            span=lambda phase: self.options.observer.span(key, phase),
        )
        self.options.observer.ran(key, cut, module)
        return cut
