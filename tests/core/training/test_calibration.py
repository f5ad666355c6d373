"""Calibration of a bottleneck: what it sees, on any number of ranks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.core.training.toy import ToyLinear, batches, build
from vtp_core.batch import Batch
from vtp_core.errors import DataError
from vtp_core.features import Features, Tally
from vtp_core.math.moments import Moments
from vtp_core.run.setup.calibrate import calibrate
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.ranks.world import World


class Calibrated(ToyLinear):
    """Keeps what it was calibrated with."""

    sample_rows = 20
    largest = 0

    def observe(self, features: Features) -> Tally:
        patches = features.patches
        return Tally(rows={"x": patches[:, 0, 0]}, moments={"x": Moments.of(patches)})

    def calibrate(self, tally: Tally) -> None:
        self.seen = tally


def steps(world: World, count: int) -> Iterator[tuple[int, dict[str, Batch]]]:
    for index in range(count):
        yield index, batches(index, rank=world.rank, world_size=world.size, rows=12)


def calibrated(world: World, rows: int = 36) -> Tally:
    networks = build("last_layer")
    networks.bottleneck = Calibrated().double()
    assert calibrate(networks, world, ForwardOptions(), steps(world, 4), "rec", rows) == 36
    return networks.bottleneck.seen


def test_the_bottleneck_sees_the_encoders_features() -> None:
    networks = build("last_layer").encoder.eval()
    images = torch.cat([batch["rec"].crops["global"] for _, batch in steps(World(), 3)])
    with torch.no_grad():
        features = Features(crops={"global": networks([images], [None])[0]}).patches
    seen = calibrated(World())
    torch.testing.assert_close(seen.moments["x"].mean, features.flatten(0, 2).mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen.rows["x"], features[:20, 0, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_calibrates_the_same(size: int) -> None:
    alone = calibrated(World())
    for tally in run_ranks(size, calibrated):
        torch.testing.assert_close(
            tally.moments["x"].scatter, alone.moments["x"].scatter, rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(tally.rows["x"], alone.rows["x"], rtol=1e-12, atol=1e-12)


def test_what_is_kept_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtp_core.run.setup import calibrate as module

    sizes: list[int] = []
    join = module.join_tallies

    def watched(parts: list[Tally], rows: int) -> Tally:
        joined = join(parts, rows)
        held: list[Tensor] = [*joined.rows.values(), joined.moments["x"].scatter]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in held))
        return joined

    monkeypatch.setattr(module, "join_tallies", watched)
    calibrated(World())
    assert len(sizes) == 3
    assert sizes[1] == sizes[2]


def test_too_few_rows_are_refused() -> None:
    networks = build("last_layer")
    networks.bottleneck = Calibrated().double()
    with pytest.raises(DataError, match="calibration asks 100 rows and got 48"):
        calibrate(networks, World(), ForwardOptions(), steps(World(), 4), "rec", 100)


def test_cached_latents_are_refused() -> None:
    networks = build("last_layer")
    networks.bottleneck = Calibrated().double()
    latents = {"rec": Batch(crops={}, keys=("a",), rows=1, latent=torch.zeros(1, 6, 2, 2))}
    with pytest.raises(DataError, match="cached latents"):
        calibrate(networks, World(), ForwardOptions(), iter([(0, latents)]), "rec", 1)
