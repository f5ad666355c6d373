"""The gradient at a cut, before the networks behind it have run backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from vtp_core.training.forward.cut import Cut
from vtp_core.training.forward.forward import Forward


def origin(forwards: Iterable[Forward], tensor: Tensor) -> tuple[Forward, int, int]:
    """The forward that returned `tensor`, with how many rows and at which position.

    Raises:
        ValueError: None of them returned it.
    """
    for forward in forwards:
        for rows, tree in forward.given.items():
            tensors = [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
            for position, leaf in enumerate(tensors):
                if leaf is tensor:
                    return forward, rows, position
    raise ValueError(
        "`at` must be a tensor that a verb of this step returned, such as reconstruct(view).image"
    )


def gradient_at(
    tape: Sequence[tuple[Cut, Forward]], forward: Forward, rows: int, position: int
) -> tuple[Tensor, bool]:
    """Gradient at the first rows of an output: what has reached it, and what later networks will send.

    Later networks run again for it. Every rank has to make the same calls.

    Args:
        tape: All cuts of the step so far, in order, with their forwards.
        forward: Whose output it is.
        rows: Local rows.
        position: Of the output among the forward's.

    Returns:
        The gradient, and whether there is any: else it is zeros.
    """
    pending: dict[int, Tensor] = {}
    targets = [cut.leaves()[position] for cut in forward.cuts]
    last = max(i for i, (cut, _) in enumerate(tape) if cut in forward.cuts)
    for cut, owner in reversed(tape[last + 1 :]):
        for leaf, chunk, gradient in cut.input_gradients(pending, cut.row_count / max(owner.rows, 1)):
            total = pending.setdefault(id(leaf), torch.zeros_like(leaf))
            total[chunk] += gradient
    reached = forward.gradient(rows, position)
    if any(id(leaf) in pending for leaf in targets):
        sent = torch.cat([pending.get(id(leaf), torch.zeros_like(leaf)) for leaf in targets])
        return reached + sent[:rows], True
    return reached, any(leaf.grad is not None for leaf in targets)
