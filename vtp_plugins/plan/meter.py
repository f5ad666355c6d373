"""Records the FLOPs and bytes of a step by forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from vtp_core.batch import Batch
from vtp_core.step import Step
from vtp_core.training.forward.cut import Cut, Phase
from vtp_core.training.forward.observer import Key, Observer
from vtp_core.training.networks import Networks
from vtp_plugins.plan.layers import report_layers
from vtp_plugins.plan.products import Products


class Cost(NamedTuple):
    """What one forward costs, or an objective's own computation.

    Attributes:
        forward: FLOPs.
        layers: Of these, linear and convolution layers of networks that are trained and of their teachers.
        backward: FLOPs.
        saved: Bytes kept for the backward, parameters left out.
        outputs: Bytes of what it returns, unless they are among `saved`.
        gradients: Bytes of the gradients of what it returns.
        blocks: Bytes of the inputs of its blocks, which activation checkpointing keeps.
        rerun: Bytes of the one block that activation checkpointing runs again at a time; not measured.
    """

    forward: float = 0.0
    layers: float = 0.0
    backward: float = 0.0
    saved: float = 0.0
    outputs: float = 0.0
    gradients: float = 0.0
    blocks: float = 0.0
    rerun: float = 0.0


class Meter(Observer):
    """Attributes all costs of one joint step to its forwards and objectives.

    What runs outside a network of the step belongs to the objective that was called last: its own key is
    ("objective", name), or ("critic", name) for what its critic loss does.

    Attributes:
        costs: Key -> cost.
        asks: Key of a forward -> objectives that ask for it, the one that runs it first.
        modules: Key of a forward -> name of its module below an objective, such as ``clip.text``, or "".
    """

    def __init__(self) -> None:
        self.costs: dict[Key, Cost] = {}
        self.asks: dict[Key, list[str]] = {}
        self.modules: dict[Key, str] = {}
        self._names: dict[str, nn.Module] = {}
        self._objective = ""
        self._key: Key = ("set-up",)
        self._phase: Phase = "forward"
        self._held: dict[int, StorageWeakRef] = {}

    def asked(self, key: Key) -> None:
        """Records that the current objective uses a forward."""
        askers = self.asks.setdefault(key, [])
        if self._objective not in askers:
            askers.append(self._objective)

    def ran(self, key: Key, cut: Cut, module: nn.Module) -> None:
        """Notes what a forward returned."""
        self.asked(key)
        self.modules[key] = next((name for name, own in self._names.items() if own is module), "")
        for leaf in cut.leaves():
            gradients = _bytes(leaf) if leaf.requires_grad else 0
            self._add(key, outputs=self._new(leaf), gradients=gradients)

    @contextmanager
    def span(self, key: Key, phase: Phase) -> Iterator[None]:
        """Costs within belong to the forward `key`."""
        before = self._key, self._phase
        self._key, self._phase = key, phase
        try:
            yield
        finally:
            self._key, self._phase = before

    @contextmanager
    def watch(self, networks: Networks, batches: Mapping[str, Batch]) -> Iterator[None]:
        """Measures what runs within; the modules' tensors and the pixels are not counted.

        Args:
            networks: What the step will run.
            batches: On what, as after `Batch.to`.
        """
        for batch in batches.values():
            for pixels in batch.crops.values():
                self._new(pixels)
        modules = (networks.encoder, networks.bottleneck, networks.decoder, *networks.objectives.values())
        for module in (*modules, *networks.frozen.values(), *networks.ema.values()):
            for tensor in (*module.parameters(), *module.buffers()):
                self._new(tensor)
        with ExitStack() as stack:
            for name, objective in networks.objectives.items():
                self._names |= {f"{name}.{child}": own for child, own in objective.named_modules() if child}
                handle = objective.register_forward_pre_hook(self._enter("objective", name))
                stack.callback(handle.remove)
            for name in networks.adversaries():
                stack.enter_context(self._critic(name, networks))
            for part in (networks.encoder, networks.decoder):
                for block in part.blocks():
                    stack.callback(block.register_forward_pre_hook(self._block).remove)
            report_layers(_counted(networks), self._layer, stack)
            stack.enter_context(saved_tensors_hooks(self._save, lambda tensor: tensor))
            stack.enter_context(Products(self._product))
            yield
        self._names = {}  # a meter outlives the networks

    def _enter(self, kind: str, name: str) -> Callable[[nn.Module, Sequence[object]], None]:
        def enter(*_: object) -> None:
            self._objective, self._key = name, (kind, name)

        return enter

    @contextmanager
    def _critic(self, name: str, networks: Networks) -> Iterator[None]:
        adversary = networks.adversaries()[name]
        inner, enter = adversary.critic_loss, self._enter("critic", name)

        def critic_loss(step: Step) -> object:
            enter(adversary, ())
            return inner(step)

        adversary.__dict__["critic_loss"] = critic_loss
        try:
            yield
        finally:
            del adversary.__dict__["critic_loss"]

    def _block(self, _: nn.Module, inputs: Sequence[object]) -> None:
        self._add(self._key, blocks=sum(_bytes(x) for x in inputs if isinstance(x, Tensor)))

    def _layer(self, flops: int) -> None:
        if self._phase == "forward" and self._key[0] != "critic":
            self._add(self._key, layers=flops)

    def _product(self, flops: int) -> None:
        if self._phase == "forward":
            self._add(self._key, forward=flops)
        else:
            self._add(self._key, backward=flops)

    def _save(self, tensor: Tensor) -> Tensor:
        self._add(self._key, saved=self._new(tensor))
        return tensor

    def _add(self, key: Key, **amounts: float) -> None:
        cost = self.costs.get(key, Cost())
        self.costs[key] = cost._replace(**{name: getattr(cost, name) + x for name, x in amounts.items()})

    def _new(self, tensor: Tensor) -> int:
        """Bytes of the tensor's storage if it is not held already, else 0."""
        storage = tensor.untyped_storage()
        held = self._held.get(storage._cdata)
        if held is not None and not held.expired():
            return 0
        self._held[storage._cdata] = StorageWeakRef(storage)
        return storage.nbytes()


def _counted(networks: Networks) -> Iterator[nn.Module]:
    """The tokenizer, objectives without critics and frozen helpers, and teachers."""
    yield from (networks.encoder, networks.bottleneck, networks.decoder, *networks.ema.values())
    for name in networks.objectives:
        yield from (module for _, module in networks.children_of(name))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
