"""The augmentation interface: a decoded image to one crop of a view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtp_core.view import Size

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from torch import Tensor

    from vtp_core.config import AugmentationConfig


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A crop to be made.

    Attributes:
        name: Its set, a key of the view's `crops`; "global" is always there.
        number: Its place in the set, from 0.
        size: Side in pixels, or (height, width) in a view with such a size.
        scale: Smallest and largest fraction of the image's area; None: the augmentation's own.
    """

    name: str
    number: int
    size: Size
    scale: tuple[float, float] | None = None


class Augmentation(ABC):
    """Base class of augmentations, built as ``Class(config)`` and pickled to the loader's workers.

    A call is a pure function of its arguments: it keeps nothing and draws random numbers from `rng` alone,
    which the loader keys by (seed, step, view, global row, crop). So crops are the same for any number of
    workers and ranks, and after a resume. `vtp_core.testing.check_augmentation` tests it.

    Args:
        config: Its table, ``augment`` of a view.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, image: NDArray[numpy.uint8], crop: Crop, rng: numpy.random.Generator) -> Tensor:
        """Makes one crop.

        Args:
            image: (H, W, 3) uint8 RGB of any size; not to be changed, other crops and views read it too.
            crop: What to make.
            rng: Source of all random numbers. Code that draws from torch's global generator can be seeded
                from it, under `torch.random.fork_rng`.

        Returns:
            (3, height, width) uint8 in [0, 255].
        """
