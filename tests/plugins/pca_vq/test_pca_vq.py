"""The bottleneck `pca_vq`: rules, ranks, rotation of the codebook, collapse, and hard features."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from vtp_core.errors import DataError, UsageError
from vtp_core.features import Features, Tokens
from vtp_core.math.moments import Moments
from vtp_core.parameters import Dims
from vtp_core.testing import check_bottleneck, drawn_features, run_ranks
from vtp_core.training.forward.cut import take_rows
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World
from vtp_plugins.pca_vq.bottleneck import PcaVqBottleneck
from vtp_plugins.pca_vq.config import BranchConfig, PcaVqConfig
from vtp_plugins.pca_vq.rotated import RotatedQuantizer

DIMS = Dims(width=16, patch=8, depth=3, has_cls=True)
MODES: dict[str, dict[str, object]] = {
    "plain": {"mode": "plain"},
    "reweight": {"mode": "reweight", "alpha": 0.5},
    "dsq": {"mode": "dsq", "variance": 0.6},
    "whiten": {"mode": "whiten"},
    "rate": {"mode": "rate"},
}


def table(mode: str, **keys: object) -> PcaVqConfig:
    codebook = {"codes": 8, "commitment": 0.25, "dead_below": 0.5, "revive_every": 1}
    quantizer = {"axes": MODES[mode], "codebook": codebook, "recalibrate": [2], **keys}
    return PcaVqConfig(
        fusion={"kind": "concat", "layers": [0], "shallow": 4},
        quantizer=quantizer,
        calibration_rows=6,
        sample_tokens=3,
        sample_rows=6,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("decode", ["full", "subspace"])
def test_it_keeps_the_rules_of_bottlenecks(mode: str, decode: str) -> None:
    check_bottleneck(PcaVqBottleneck, table(mode, decode=decode), dims=DIMS)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_calibrate_and_move_as_one(size: int) -> None:
    def states(world: World) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bottleneck = PcaVqBottleneck(table("dsq"), DIMS).double()

        def own(step: int) -> Features:
            whole = drawn_features(DIMS, bottleneck.layers, 8, step)
            cast = torch.utils._pytree.tree_map(
                lambda x: x.double() if torch.is_tensor(x) and x.is_floating_point() else x, whole
            )
            mine: Features = torch.utils._pytree.tree_map(
                lambda x: x[world.rank :: world.size] if torch.is_tensor(x) else x, cast
            )
            return take_rows(mine, slice(0, None))

        with torch.no_grad():
            bottleneck.calibrate(reduce_tally([bottleneck.observe(own(9))], world, bottleneck.sample_rows))
            for step in range(4):  # step 2 measures new axes
                tally = bottleneck(own(step)).tally
                assert tally is not None
                bottleneck.after_step(reduce_tally([tally], world, bottleneck.sample_rows), step)
        return bottleneck.state_dict()

    alone = states(World())
    for found in run_ranks(size, states):
        for key, value in alone.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-10, atol=1e-10, msg=f"{key} on {size} ranks"
            )


def quantizer(mode: str = "dsq", codes: int = 32, dim: int = 12, **keys: object) -> RotatedQuantizer:
    config = BranchConfig(axes=MODES[mode], codebook={"codes": codes, **keys})
    return RotatedQuantizer(config, dim, "deep")


def anisotropic(count: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    scales = 2.0 ** -torch.arange(12.0)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(5)))[0]
    return (torch.randn(count, 12, generator=draw) * scales) @ rotation + offset


def test_new_axes_rotate_the_codebook_along() -> None:
    built = quantizer()
    built.calibrate(Moments.of(anisotropic(500)))
    built.initialise(anisotropic(500))
    codes = torch.arange(32)[:, None]
    before = built.lookup(codes)
    built.calibrate(Moments.of(anisotropic(500, seed=1) * 2 + 3))
    torch.testing.assert_close(built.lookup(codes), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(built.sums / built.sizes[:, None], built.codebook, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_an_offset_changes_no_code(mode: str) -> None:
    """A common offset of 300 once gave a wrong code for 18 % of the vectors."""
    found = []
    for offset in (0.0, 300.0):
        built = quantizer(mode).double()
        x = anisotropic(600).double() + offset
        built.calibrate(Moments.of(x))
        built.initialise(x)
        found.append((built(x).codes, built(x).vectors - offset))
    assert (found[0][0] == found[1][0]).float().mean() > 0.999
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)


def test_the_search_is_the_weighted_distance_of_rotated_vectors() -> None:
    built = quantizer("reweight")
    x = anisotropic(300)
    built.calibrate(Moments.of(x))
    built.initialise(x)
    y = (x - built.mean) @ built.vectors
    distance = (built.weights * (y[:, None] - built.codebook[None]).square()).sum(-1)
    assert torch.equal(built(x).codes[:, 0], distance.argmin(1))


def test_dropped_axes_decode_to_the_codes_mean_or_the_mean_of_all() -> None:
    full, subspace = quantizer("dsq"), quantizer("dsq")
    subspace.branch = subspace.branch.model_copy(update={"decode": "subspace"})
    x = anisotropic(800)
    for built in (full, subspace):
        built.calibrate(Moments.of(x))
        built.initialise(x)
    rank = int(full.rank)
    assert 0 < rank < 12
    rotated = (subspace(x).vectors - subspace.mean) @ subspace.vectors
    torch.testing.assert_close(rotated[:, rank:], torch.zeros(800, 12 - rank), atol=1e-5, rtol=0)
    errors = [(built(x).vectors - x).square().sum(-1).mean() for built in (full, subspace)]
    assert errors[0] < errors[1]


def test_gaussian_data_stay_above_the_bound() -> None:
    """Held-out error of any codebook, in decibels above reverse water-filling at log2 K bits."""
    for mode in ("plain", "rate"):
        built = quantizer(mode, codes=256)
        x, held_out = anisotropic(20_000), anisotropic(20_000, seed=1)
        built.calibrate(Moments.of(x))
        built.initialise(x)
        error = (built(held_out).vectors - held_out).square().sum(-1)
        lowest = error.mean() - 2 * error.std() / len(error) ** 0.5
        assert 10 * torch.log10(lowest / built.bound[0]) > 0
        assert built(held_out).report["above_bound_db"] < 4


def test_noise_collapses_a_plain_codebook_and_not_the_dominant_subspace() -> None:
    """A toy problem: clustered signal of few axes under isotropic noise in many."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(256, 8, generator=draw) * (1 / torch.arange(1.0, 9)).sqrt()
    rotation = torch.linalg.qr(torch.randn(256, 256, generator=draw))[0][:8]

    def vectors(count: int) -> torch.Tensor:
        chosen = centers[torch.randint(256, (count,), generator=draw)]
        return chosen @ rotation + 0.15 * torch.randn(count, 256, generator=draw)

    used = {}
    for mode, axes in (("plain", {"mode": "plain"}), ("dsq", {"mode": "dsq", "rank": 8})):
        codebook = {"codes": 128, "initialise": "data", "revive": False, "decay": 0.9}
        built = RotatedQuantizer(BranchConfig(axes=axes, codebook=codebook), 256, "deep")
        x = vectors(4096)
        built.calibrate(Moments.of(x))
        built.initialise(x)
        for index in range(60):
            built.after_step(built(vectors(512)).tally, index)
        used[mode] = len(built(vectors(4096)).codes.unique()) / 128
    assert used["plain"] < 0.6
    assert used["dsq"] > 0.85


@pytest.mark.parametrize("width", [8, 300])
def test_few_images_wide_and_narrow_features(width: int, caplog: pytest.LogCaptureFixture) -> None:
    """Ten images for features of 300 channels: a warning, and finite codes."""
    dims = replace(DIMS, width=width)
    config = PcaVqConfig(quantizer={"codebook": {"codes": 64}}, calibration_rows=10, sample_tokens=6)
    bottleneck = PcaVqBottleneck(config, dims).eval()
    features = drawn_features(dims, rows=10)
    with caplog.at_level(logging.INFO):
        bottleneck.calibrate(reduce_tally([bottleneck.observe(features)], World(), bottleneck.sample_rows))
    assert ("calibrate on more images" in caplog.text) == (width == 300)
    assert "effective dimensions" in caplog.text
    assert bottleneck(features).z.isfinite().all()


def test_constant_features_are_refused() -> None:
    bottleneck = PcaVqBottleneck(PcaVqConfig(), DIMS)
    patches = torch.full((4, 1, 6, 16), 300.0)
    features = Features(crops={"global": Tokens(patches=patches, grid=(2, 3))})
    tally = reduce_tally([bottleneck.observe(features)], World(), 4)
    with pytest.raises(DataError, match=r"branch 'deep'.*all vectors are equal"):
        bottleneck.calibrate(tally)


def test_a_branch_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match="'shalow' is no branch; there are deep, shallow"):
        PcaVqBottleneck(PcaVqConfig(fusion={"layers": [0]}, branches={"shalow": {}}), DIMS)


def test_random_codes_lie_where_the_features_are() -> None:
    x = anisotropic(400, offset=300.0)
    found = quantizer("plain", initialise="random")
    found.calibrate(Moments.of(x))
    found.initialise(x)
    assert len(found(x).codes.unique()) > 8
    assert found(x).report["above_bound_db"] < 10


@pytest.mark.parametrize(
    ("skipped", "expected"), [((), [3, 7]), ((2, 6), [3, 7]), ((3, 7, 8), [4, 9]), ((3, 4, 5, 6, 7), [8])]
)
def test_axes_are_measured_although_steps_are_skipped(
    skipped: tuple[int, ...], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BranchConfig(codebook={"codes": 32}, recalibrate=[3, 7])
    found, x = RotatedQuantizer(config, 12, "deep"), anisotropic(64)
    found.calibrate(Moments.of(x))
    made, missed = [], 0
    measure = found.calibrate
    monkeypatch.setattr(found, "calibrate", lambda moments: (made.append(index), measure(moments)))
    for index in range(1, 11):
        found.before_step(range(index - missed, index + 1))
        tally = found(x).tally
        missed += 1
        if index not in skipped:
            rows = {name: value.unflatten(0, (8, 8)) for name, value in tally.rows.items()}
            assert ("x" in tally.moments) == (index in expected)
            found.after_step(replace(tally, rows=rows), index)
            missed = 0
    assert made == expected


@pytest.mark.parametrize("loaded", [False, True])
def test_an_exported_quantiser_searches_its_axes(loaded: bool) -> None:
    class Codes(torch.nn.Module):
        def __init__(self, found: RotatedQuantizer) -> None:
            super().__init__()
            self.found = found

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.found(x).codes

    found, x = quantizer(), anisotropic(50)
    found.calibrate(Moments.of(x))
    found.initialise(x)
    if loaded:
        state = found.state_dict()
        found = quantizer()
        found.load_state_dict(state)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(Codes(found).eval(), (x[:9],), dynamic_shapes=({0: rows},))
    assert torch.equal(exported.module()(x), found(x).codes)
