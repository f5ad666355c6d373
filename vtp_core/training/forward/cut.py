"""Cut points: network forwards over rows, cut out of autograd at their inputs and outputs.

A cut's outputs are leaf tensors. Objectives differentiate down to them; later the core runs the cut backward.
With one chunk the graph is kept from forward to backward. With several, the forward keeps no graph and the
backward runs each chunk again under the same seed: memory is that of one chunk, the gradient is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from vtp_core.features import Tally

Phase = Literal["forward", "backward"]

Tree = Any
"""A pytree (tuples, dicts, the dataclasses of `vtp_core.features`) of tensors, rows first, and constants."""


@dataclass(kw_only=True)
class Part:
    """A network's outputs for some rows.

    Attributes:
        rows: Tensors with the rows first.
        aux: Scalar loss terms, means over these rows.
        report: Scalars to log, means over these rows.
        tally: Statistics of these rows.
    """

    rows: Tree
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    report: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Tally | None = None


def split_rows(first: int, last: int, chunk: int | None) -> list[slice]:
    """Slices of at most `chunk` rows that cover first .. last - 1; one, possibly empty, if chunk is None."""
    if chunk is None or last - first <= chunk:
        return [slice(first, last)]
    return [slice(start, min(start + chunk, last)) for start in range(first, last, chunk)]


def even_split(rows: int, parts: int) -> list[slice]:
    """`parts` slices of nearly equal length, empty ones included: the same number on every rank."""
    bounds = [rows * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def take_rows(tree: Tree, rows: slice) -> Tree:
    """The tree with every tensor cut to `rows`."""
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, tree)


def join_rows(trees: Sequence[Tree]) -> Tree:
    """Trees of the same structure joined along the rows; constants come from the first."""
    if len(trees) == 1:
        return trees[0]
    flat = [tree_flatten(tree)[0] for tree in trees]
    leaves = [
        torch.cat(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*flat, strict=True)
    ]
    return tree_unflatten(leaves, tree_flatten(trees[0])[1])


class Cut:
    """One network forward over rows, with a backward of its own.

    Args:
        network: Runs the network on a tree of input rows. Pure but for the seeded global generator.
        inputs: Tree of tensors; gradients go to those that require one, leaves of earlier cuts as a rule.
        chunks: Row slices of `inputs`, in order.
        seeded: Seeds the generators for the chunk that starts at a row.
        trains: Whether the network holds trainable parameters.
        units: Modules whose sharded gradients are reduced on the last chunk only.
        span: Context of the network's runs and of the backwards through them, for an observer.
    """

    def __init__(
        self,
        network: Callable[[Tree], Part],
        inputs: Tree,
        chunks: Sequence[slice],
        *,
        seeded: Callable[[int], AbstractContextManager[None]],
        trains: bool,
        units: Sequence[torch.nn.Module] = (),
        span: Callable[[Phase], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._network, self._inputs, self._chunks, self._seeded = network, inputs, chunks, seeded
        self._span = span
        self._units = [unit for module in units for unit in module.modules() if isinstance(unit, FSDPModule)]
        upstream = [
            leaf for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.requires_grad
        ]
        self._live = torch.is_grad_enabled() and (trains or bool(upstream))
        self._kept: tuple[Part, list[tuple[Tensor, Tensor]]] | None = None
        self.row_count = sum(chunk.stop - chunk.start for chunk in chunks)
        keep = self._live and len(chunks) == 1
        parts = []
        for chunk in chunks:
            part, links = self._run(chunk, grad=keep)
            if keep:
                self._kept = (part, links)
            parts.append(tree_map(_detach, vars(part)))
        self.outputs: Tree = tree_map(self._leaf, join_rows([part["rows"] for part in parts]))
        self._leaves: list[Any] = tree_flatten(self.outputs)[0]
        shares = [self._share(chunk) for chunk in chunks]
        self.aux = _weighted([part["aux"] for part in parts], shares)
        self.report = _weighted([part["report"] for part in parts], shares)
        self.tallies = [part["tally"] for part in parts if part["tally"] is not None]

    def backward(self, aux_scale: float = 1.0) -> None:
        """Sends the leaves' gradients, and the aux terms times `aux_scale`, into parameters and inputs.

        Every rank that ran the forward has to call it, in the same order.
        """
        if not self._live or not (self.aux or any(_grad(leaf) is not None for leaf in self._leaves)):
            return
        inner: dict[int, tuple[Tensor, Tensor]] = {}
        for chunk in self._chunks:
            last = chunk is self._chunks[-1]
            for unit in self._units:
                unit.set_requires_gradient_sync(last, recurse=False)
            part, links = self._kept if self._kept is not None else self._run(chunk, grad=True)
            self._kept = None
            self._backward_chunk(part, chunk, aux_scale * self._share(chunk))
            for source, copy in links:
                if copy.grad is not None:
                    _accumulate(source, chunk, copy.grad, inner)
        if inner:  # an objective computed these inputs: on through its graph, kept until then
            sources, grads = zip(*inner.values(), strict=True)
            torch.autograd.backward(sources, grads, retain_graph=True)
        for leaf in self._leaves:
            if isinstance(leaf, Tensor):
                leaf.grad = None

    def replay(self) -> Iterator[tuple[slice, Part]]:
        """Runs each chunk again with its graph; yields its rows, from the cut's first on, and the result."""
        offset = self._chunks[0].start
        for chunk in self._chunks:
            part, _ = self._run(chunk, grad=True)
            yield slice(chunk.start - offset, chunk.stop - offset), part

    def input_gradients(
        self, pending: Mapping[int, Tensor], aux_scale: float = 1.0
    ) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """Gradients at the inputs, from those that have reached the outputs; nothing is accumulated.

        Runs the network again. Every rank that ran the forward has to call it, in the same order.

        Args:
            pending: ``id`` of an output -> gradient that would still reach it, besides its own.
            aux_scale: Factor of the aux terms.

        Yields:
            (input leaf, its rows, their gradient).
        """
        if not self._live:
            return
        totals = [_total(leaf, pending) for leaf in self._leaves]
        if not self.aux and all(total is None for total in totals):
            return
        offset = self._chunks[0].start
        for chunk in self._chunks:
            part, links = self._run(chunk, grad=True)
            rows = slice(chunk.start - offset, chunk.stop - offset)
            outputs = zip(tree_flatten(part.rows)[0], totals, strict=True)
            pairs = [(out, grad[rows]) for out, grad in outputs if grad is not None and out.requires_grad]
            scale = aux_scale * self._share(chunk)
            pairs += [
                (term, torch.full_like(term, scale)) for term in part.aux.values() if term.requires_grad
            ]
            if not pairs or not links:
                continue
            tensors, grads = zip(*pairs, strict=True)
            copies = [copy for _, copy in links]
            found = torch.autograd.grad(tensors, copies, grads, allow_unused=True)
            for (source, _), grad in zip(links, found, strict=True):
                if grad is not None:
                    yield source, chunk, grad

    def leaves(self) -> list[Tensor]:
        """The output tensors."""
        return [leaf for leaf in self._leaves if isinstance(leaf, Tensor)]

    def _share(self, chunk: slice) -> float:
        rows: int = chunk.stop - chunk.start
        return float(rows / max(self.row_count, 1))

    def _run(self, chunk: slice, *, grad: bool) -> tuple[Part, list[tuple[Tensor, Tensor]]]:
        """Runs a chunk on detached copies of its inputs; returns those with a gradient as (source, copy)."""
        links: list[tuple[Tensor, Tensor]] = []

        def copy(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            rows = leaf.detach()[chunk]
            if grad and leaf.requires_grad:
                links.append((leaf, rows.requires_grad_()))
            return rows

        inputs = tree_map(copy, self._inputs)
        with torch.set_grad_enabled(grad), self._seeded(chunk.start), self._span("forward"):
            return self._network(inputs), links

    def _backward_chunk(self, part: Part, chunk: slice, aux_scale: float) -> None:
        offset = self._chunks[0].start
        rows = slice(chunk.start - offset, chunk.stop - offset)
        tensors, grads = [], []
        for output, leaf in zip(tree_flatten(part.rows)[0], self._leaves, strict=True):
            grad = _grad(leaf)
            if grad is not None and output.requires_grad:
                tensors.append(output)
                grads.append(grad[rows])
        for term in part.aux.values():
            if term.requires_grad:
                tensors.append(term)
                grads.append(torch.full_like(term, aux_scale))
        if tensors:
            with self._span("backward"):
                torch.autograd.backward(tensors, grads)

    def _leaf(self, output: Any) -> Any:
        if isinstance(output, Tensor) and self._live and output.is_floating_point():
            return output.requires_grad_()
        return output


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _grad(leaf: Any) -> Tensor | None:
    return leaf.grad if isinstance(leaf, Tensor) else None


def _total(leaf: Any, pending: Mapping[int, Tensor]) -> Tensor | None:
    """The gradient at an output: what has reached it and what is pending."""
    own, further = _grad(leaf), pending.get(id(leaf))
    if own is None or further is None:
        return further if own is None else own
    return own + further


def _accumulate(source: Tensor, rows: slice, grad: Tensor, inner: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Adds a chunk's gradient to the rows of its source: to a leaf's gradient, or to a buffer in `inner`."""
    if source.is_leaf:
        if source.grad is None:
            source.grad = torch.zeros_like(source)
        source.grad[rows] += grad
    else:
        inner.setdefault(id(source), (source, torch.zeros_like(source)))[1][rows] += grad


def _weighted(values: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Means over all rows from means over chunks."""
    names = values[0] if values else {}
    pairs = list(zip(values, shares, strict=True))
    return {name: torch.stack([value[name] * share for value, share in pairs]).sum(0) for name in names}
