"""The step interface: what an objective can ask for during one training step.

An objective gets a `Step` in ``forward(step)`` and reaches the shared networks only through its verbs.
`encode`, `tokenize` and `reconstruct` run once per step for each view, whichever objective asks first, and
return *leaf* tensors: an objective's loss is differentiated down to them, and the engine later sends the
gradients of all objectives through the networks together.

Local row j of rank r is global row j * W + r. The mean over ranks of an objective's loss is the global loss.
Every rank makes the same calls in the same order.

`vtp_core/training/forward/step.py` is the engine's implementation; `vtp_core.testing.FakeStep` serves tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from vtp_core.batch import Batch
from vtp_core.features import Features, Latent, Reconstruction


class Step(ABC):
    """One training step as one objective sees it.

    Attributes:
        index: 0-based step.
        total: Steps of the run.
        rank: This rank, 0 .. W - 1.
        world_size: Number of ranks W.
        teacher: The EMA copies.
    """

    index: int
    total: int
    rank: int
    world_size: int
    teacher: Teacher

    @abstractmethod
    def batch(self, view: str) -> Batch:
        """This rank's rows of the view, normalised and on the device: the objective's sub-batch."""

    @abstractmethod
    def encode(self, view: str, *, masked: bool = False, attached: bool = False) -> Features:
        """The student's features of the view.

        Args:
            view: A view that the objective declares.
            masked: Replace masked patches of the global crops by the mask token.
            attached: Return the graph down to the pixels of ``step.batch(view)`` instead of leaves, for
                losses that need a gradient with respect to pixels. Neither shared nor run in row chunks.
        """

    @abstractmethod
    def tokenize(self, view: str, *, masked: bool = False) -> Latent:
        """The student's latent of the view, or its cached latents if the view holds those."""

    @abstractmethod
    def reconstruct(self, view: str) -> Reconstruction:
        """The view's first global crop through encoder, bottleneck and decoder."""

    @abstractmethod
    def detached(self, view: str) -> Reconstruction:
        """The main pass's reconstruction of the view without its graph; in `critic_loss` only."""

    @abstractmethod
    def frozen(self, name: str) -> nn.Module:
        """The frozen network ``[frozen.NAME]``; gradients reach its input. Without: `frozen_features`."""

    @abstractmethod
    def frozen_features(self, name: str, view: str, layers: tuple[int, ...] = ()) -> Features:
        """What the frozen network makes of the view's global crops: once a step for all objectives.

        Without gradient, in row chunks.

        Args:
            name: Of ``[frozen.NAME]``.
            view: A view that the objective declares.
            layers: Blocks to tap.
        """

    @abstractmethod
    def shared(self, path: str) -> nn.Module:
        """A module that another objective shares, such as ``"dino.head"``."""

    @abstractmethod
    def call(self, module: nn.Module, *rows: Tensor) -> Tensor:
        """The output of an own or shared module, run in row chunks like the shared networks.

        Args:
            module: A child module of this or another objective.
            rows: Its inputs, rows first; ranks may hold different numbers of rows, including none.
        """

    @abstractmethod
    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) of every rank as (B * W, ...) in global row order, with gradient."""

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """`x` added over ranks, without gradient."""

    @abstractmethod
    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Local share of the global (weighted) mean, a scalar; 0 if all weights are 0.

        Args:
            values: Any shape; ranks may hold different numbers of values, including none.
            weights: Shaped as `values`, non-negative; None weights all alike.
        """

    @abstractmethod
    def confine(self, loss: Tensor, at: Tensor) -> Tensor:
        """A term with the value of `loss` whose gradient reaches only `at`, and not through `call`."""

    @abstractmethod
    def balance(
        self,
        loss: Tensor,
        at: Tensor,
        through: Literal["output", "last_layer"] = "output",
        *,
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> tuple[Tensor, Tensor]:
        """`loss` confined to `at` and scaled to the gradient that the group's other objectives left there.

        Args:
            loss: Scalar, local share of a global mean.
            at: A tensor that a verb returned, such as ``step.reconstruct(view).image``.
            through: Where the two gradients are compared: at `at`, or at the decoder's last layer's weight.
            eps: Added to this loss's gradient norm.
            limit: Upper bound of the weight.

        Returns:
            The term and its weight (no gradient), the same on all ranks.

        Source:
            Esser et al. 2021, eq. 7; eps and limit as in its public code.
        """

    @abstractmethod
    def randn(self, rows: int, *shape: int) -> Tensor:
        """Standard normal (rows, *shape), drawn by global row: the same numbers at any world size."""

    @abstractmethod
    def rand(self, rows: int, *shape: int) -> Tensor:
        """Uniform in [0, 1), (rows, *shape), drawn by global row."""

    @abstractmethod
    def rng(self) -> torch.Generator:
        """A CPU generator that gives the same numbers on every rank."""


class Teacher(ABC):
    """The EMA copies of the networks that the objective lists in `teachers`: evaluation mode, no gradient."""

    @abstractmethod
    def encode(self, view: str) -> Features:
        """Features of the view's unmasked global crops."""

    @abstractmethod
    def tokenize(self, view: str) -> Latent:
        """Latent of the view's unmasked global crops."""

    @abstractmethod
    def own(self, module: nn.Module) -> nn.Module:
        """The EMA copy of an own or shared module of an objective."""
