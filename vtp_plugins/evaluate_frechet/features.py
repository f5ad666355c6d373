"""Features of several sets of images, collected for all networks in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.errors import NumericError
from vtp_core.features import Tally
from vtp_plugins.evaluate_frechet.inception import InceptionFeatures
from vtp_plugins.evaluate_frechet.metric import Moments
from vtp_plugins.evaluate_frechet.network import PooledFeatures

Extractor = PooledFeatures | InceptionFeatures
"""A network up to its pooled features."""


class FeatureSets:
    """Moments of features by part of the set, and the features themselves where pairs are compared.

    Args:
        networks: What computes features.
        parts: Name of a set -> number of parts whose moments are kept apart.
        keep_rows: Whether to keep the features of each image, float32.
    """

    def __init__(self, networks: Sequence[Extractor], parts: Mapping[str, int], *, keep_rows: bool) -> None:
        self._networks = networks
        self._keep_rows = keep_rows
        self._moments = {
            _key(number, name): [Moments(network.width) for _ in range(count)]
            for number, network in enumerate(networks)
            for name, count in parts.items()
        }
        self._rows: dict[str, list[Tensor]] = {
            _key(number, name): [torch.zeros(0, network.width)]
            for number, network in enumerate(networks if keep_rows else ())
            for name in parts
        }
        self._places: dict[str, list[Tensor]] = {name: [torch.zeros(0, dtype=torch.int64)] for name in parts}

    def add(self, name: str, image: Tensor, places: Tensor, keys: Sequence[str]) -> None:
        """Adds a batch to a set.

        Args:
            name: The set.
            image: (B, 3, H, W) uint8.
            places: (B,) int64 on the CPU; what is left after a division by the number of parts is the part.
            keys: Names of the images in messages.

        Raises:
            NumericError: Features are not finite.
        """
        for number, network in enumerate(self._networks):
            features = network(image).cpu()
            wrong = (~features.isfinite().all(1)).nonzero()
            if len(wrong):
                raise NumericError(
                    f"{name} of sample {keys[int(wrong[0])]}: features of "
                    f"{network.name} are not finite; check its weights"
                )
            parts = self._moments[_key(number, name)]
            for part, moments in enumerate(parts):
                moments.add(features[places % len(parts) == part])
            if self._keep_rows:
                self._rows[_key(number, name)].append(features.float())
        if self._keep_rows:
            self._places[name].append(places)

    def tally(self) -> Tally:
        """The state of this rank."""
        return Tally(
            sums={key: torch.stack([m.sums for m in parts]) for key, parts in self._moments.items()},
            rows={
                **{key: torch.cat(rows) for key, rows in self._rows.items()},
                **{f"places/{name}": torch.cat(places) for name, places in self._places.items()},
            },
        )


class Collected:
    """The features of all ranks on one network.

    Args:
        state: `FeatureSets.tally` of all ranks.
        number: Position of the network.
        width: Its number of features.
    """

    def __init__(self, state: Tally, number: int, width: int) -> None:
        self._state = state
        self.number = number
        self.width = width

    def sums(self, name: str) -> Tensor:
        """(parts, 1 + C + C * C) sums of a set's moments."""
        return self._state.sums[_key(self.number, name)]

    def count(self, name: str) -> int:
        """Number of images of a set."""
        return int(self.sums(name)[:, 0].sum())

    def rows(self, name: str) -> Tensor:
        """(n, C) float32 features of a set."""
        return self._state.rows[_key(self.number, name)]

    def places(self, name: str) -> Tensor:
        """(n,) int64, `places` of the rows."""
        return self._state.rows[f"places/{name}"]


def _key(number: int, name: str) -> str:
    return f"{number}/{name}"
