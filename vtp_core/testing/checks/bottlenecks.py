"""Checks that any bottleneck has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtp_core.bottleneck import Bottleneck
from vtp_core.features import Features, Latent, Tally, Tokens
from vtp_core.math.row_noise import row_seeds
from vtp_core.parameters import Dims
from vtp_core.testing.checks.parts import (
    bfloat16,
    check_gradients,
    check_structure,
    expect,
    expect_close,
    unchanged,
)
from vtp_core.testing.errors import ConformanceError
from vtp_core.testing.networks import TINY_DIMS
from vtp_core.training.forward.cut import take_rows
from vtp_core.training.ranks.tallies import join_tallies

ROWS = 6
GRID = (3, 2)
FAR = 100
"""The step that follows skipped ones; many intervals divide it."""


def check_bottleneck(
    target: Callable[[Any, Dims], Bottleneck],
    config: Any,
    *,
    dims: Dims = TINY_DIMS,
    rows: int = ROWS,
    seed: int = 0,
) -> None:
    """Runs a bottleneck on drawn features, on a CPU.

    `observe` and `forward` change no state; tallies and latents of row chunks are those of the whole, noise
    included (`Features.seeds`); the latent has the declared channels for every crop set; codes are indices of
    the declared codebooks, and `decode_codes` is the latent that they came from; gradients reach features and
    all parameters; a vector that is not finite does not spoil tallies or state; state stays finite in
    `after_step`, also after skipped steps, and goes round a state_dict; bfloat16 stays near float32.

    Args:
        target: The bottleneck's class.
        config: Its table.
        dims: Sizes of the encoder.
        rows: Rows of the drawn features; more where the bottleneck needs more to calibrate.
        seed: Of weights and features.

    Raises:
        ConformanceError: A rule is broken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bottleneck = target(config, dims)
        check_structure(bottleneck, lambda: target(config, dims))
        features = drawn_features(dims, bottleneck.layers, rows, seed)
        parts = [take_rows(features, slice(0, rows // 2)), take_rows(features, slice(rows // 2, rows))]
        if bottleneck.calibration_rows:
            _calibrate(bottleneck, features, parts)
        _check_latent(bottleneck, features, dims)
        _check_chunks(bottleneck, features, parts)
        if bottleneck.codebook_sizes:
            _check_codes(bottleneck.eval(), features)
        _check_gradients(bottleneck.train(), features)
        _check_not_finite(bottleneck, features)
        other = target(config, dims)
        other.load_state_dict(bottleneck.state_dict())
        with torch.no_grad():
            again, found = other.eval()(features).z, bottleneck.eval()(features).z
        expect(torch.equal(again, found), "another latent after a state_dict round trip: register all state")


def drawn_features(dims: Dims, layers: Sequence[int] = (), rows: int = ROWS, seed: int = 0) -> Features:
    """Normal tokens of a global crop and two local crops of other grids, taps included."""
    rng = torch.Generator().manual_seed(seed)

    def tokens(crops: int, grid: tuple[int, int]) -> Tokens:
        def draw() -> Tensor:
            return torch.randn(rows, crops, grid[0] * grid[1], dims.width, generator=rng)

        cls = torch.randn(rows, crops, dims.width, generator=rng) if dims.has_cls else None
        return Tokens(patches=draw(), grid=grid, cls=cls, layers={layer: draw() for layer in layers})

    crops = {"global": tokens(1, GRID), "local": tokens(2, (2, 1))}
    return Features(crops=crops, seeds=row_seeds(seed, torch.arange(rows)))


def _calibrate(bottleneck: Bottleneck, features: Features, parts: list[Features]) -> None:
    only = [_global(part) for part in (features, *parts)]
    with unchanged(bottleneck, "observe"):
        whole, *halves = [bottleneck.observe(part) for part in only]
    expect(whole is not None, "calibration_rows is set, and observe returns None")
    joined = join_tallies([half for half in halves if half is not None], bottleneck.sample_rows)
    _compare_tallies(_cut(whole, bottleneck.sample_rows), joined, "observe")
    bottleneck.calibrate(_cut(whole, bottleneck.sample_rows))
    _check_finite(bottleneck, "calibrate")


def _check_latent(bottleneck: Bottleneck, features: Features, dims: Dims) -> None:
    for mode in (True, False):
        with unchanged(bottleneck, "forward"), torch.no_grad():
            latent: Latent = bottleneck.train(mode)(features)
        expect(sorted(latent.crops) == sorted(features.crops), f"latent of {sorted(latent.crops)} alone")
        for name, tokens in latent.crops.items():
            shape = (*features[name].patches.shape[:3], bottleneck.channels)
            found = tuple(tokens.patches.shape)
            expect(found == shape, f"latent {name!r} {found}: expected {shape}, `channels` last")
            expect(bool(tokens.patches.isfinite().all()), f"latent {name!r} is not finite")
        for name, value in {**latent.aux, **latent.report}.items():
            expect(value.numel() == 1, f"{name!r} of aux or report is no scalar")
    z = latent.z
    moved = bottleneck.decoder_input(z, features.seeds)  # type: ignore[arg-type]
    expect(moved.shape == z.shape, f"decoder_input gives {tuple(moved.shape)} for {tuple(z.shape)}")
    rows = [
        bottleneck.decoder_input(z[i : i + 1], features.seeds[i : i + 1])  # type: ignore[index]
        for i in range(len(z))
    ]
    expect_close(torch.cat(rows), moved, "decoder_input of a row depends on other rows: draw with row_randn")


def _check_chunks(bottleneck: Bottleneck, features: Features, parts: list[Features]) -> None:
    for mode in (True, False):
        bottleneck.train(mode)
        with torch.no_grad():
            whole, *halves = [bottleneck(part) for part in (features, *parts)]
        for name, tokens in whole.crops.items():
            joined = torch.cat([half[name].patches for half in halves])
            expect_close(
                joined,
                tokens.patches,
                f"latent {name!r} of row chunks differs: draw noise with vtp.row_randn",
            )
        if whole.tally is not None:
            tally = join_tallies([half.tally for half in halves], bottleneck.sample_rows)
            _compare_tallies(_cut(whole.tally, bottleneck.sample_rows), tally, "forward")


def _check_codes(bottleneck: Bottleneck, features: Features) -> None:
    sizes = bottleneck.codebook_sizes
    with torch.no_grad():
        latent = bottleneck(features)
    if latent.codes is None:
        raise ConformanceError("codebook_sizes is set, and Latent.codes is None")
    for name, codes in latent.codes.items():
        shape = (*features[name].patches.shape[:2], len(sizes), *features[name].grid)
        expect(codes.dtype == torch.int64, f"codes {codes.dtype}: expected torch.int64")
        expect(codes.shape == shape, f"codes {name!r} {tuple(codes.shape)}: expected {shape}")
        for book, size in enumerate(sizes):
            used = codes[:, :, book]
            expect(
                bool(((used >= 0) & (used < size)).all()),
                f"codes of codebook {book} are not in 0 .. {size - 1}",
            )
    codes = latent.codes["global"][:, 0]
    expect_close(
        bottleneck.decode_codes(codes), latent.z, "decode_codes(codes) is not the latent of those codes"
    )


def _check_gradients(bottleneck: Bottleneck, features: Features) -> None:
    leaves = [features["global"].patches, *features["global"].layers.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.enable_grad():
        latent = bottleneck(features)
        terms = [tokens.patches.square().mean() for tokens in latent.crops.values()]
        torch.stack([*terms, *(value.reshape(()) for value in latent.aux.values())]).sum().backward()
    check_gradients(bottleneck)
    reached = [leaf.grad for leaf in leaves if leaf.grad is not None]
    expect(bool(reached), "no gradient reaches the encoder's tokens")
    expect(all(bool(grad.isfinite().all()) for grad in reached), "the gradient at the encoder is not finite")
    for leaf in leaves:
        leaf.requires_grad_(False)
        leaf.grad = None
    with torch.no_grad():
        plain = bottleneck.eval()(features).z
        with bfloat16():
            rounded = bottleneck(features).z
    if not bottleneck.codebook_sizes:  # another code may be nearest
        expect_close(rounded, plain, "the latent in bfloat16 is far from float32", 0.2)
    expect(bool(rounded.isfinite().all()), "the latent in bfloat16 is not finite")


def _check_not_finite(bottleneck: Bottleneck, features: Features) -> None:
    """State stays finite although some vectors are not."""
    with torch.no_grad():
        latent = bottleneck.train()(features)
        if latent.tally is None:
            return
        bottleneck.after_step(_cut(latent.tally, bottleneck.sample_rows), 0)
        _check_finite(bottleneck, "after_step")
        tokens = features["global"]
        patches = tokens.patches.clone()
        patches[0, 0, 0] = torch.nan
        taps = {layer: tap.clone() for layer, tap in tokens.layers.items()}
        for tap in taps.values():
            tap[0, 0, 0] = torch.nan
        crops = {**features.crops, "global": replace(tokens, patches=patches, layers=taps)}
        damaged = bottleneck(replace(features, crops=crops)).tally
        bottleneck.after_step(_cut(damaged, bottleneck.sample_rows), 1)
        _check_finite(bottleneck, "after_step on a feature that is not finite")
        bottleneck.before_step(range(2, FAR))  # the last of some steps that are skipped
        bottleneck(features)
        bottleneck.before_step(range(2, FAR + 1))
        tally = bottleneck(features).tally
        try:
            bottleneck.after_step(_cut(tally, bottleneck.sample_rows), FAR)
        except (LookupError, RuntimeError) as error:
            raise ConformanceError(
                f"after_step fails where earlier steps were skipped ({type(error).__name__}: {error}): what "
                "it needs of `forward` is settled in `before_step`"
            ) from None
        _check_finite(bottleneck, "after_step where earlier steps were skipped")


def _check_finite(bottleneck: Bottleneck, what: str) -> None:
    for name, value in bottleneck.state_dict().items():
        expect(bool(value.isfinite().all()), f"{what} leaves {name!r} with values that are not finite")


def _cut(tally: Tally | None, rows: int) -> Tally:
    assert tally is not None
    return join_tallies([tally], rows)


def _compare_tallies(whole: Tally, joined: Tally, what: str) -> None:
    advice = f"of {what} in two chunks is not that of the whole: sums over rows, not means"
    for name, value in whole.sums.items():
        expect_close(joined.sums[name], value, f"tally sums[{name!r}] {advice}")
    for name, value in whole.rows.items():
        expect_close(joined.rows[name], value, f"tally rows[{name!r}] {advice}, the batch's rows first")
    for name, moments in whole.moments.items():
        expect_close(joined.moments[name].scatter, moments.scatter, f"tally moments[{name!r}] {advice}")
        expect_close(joined.moments[name].mean, moments.mean, f"tally moments[{name!r}] {advice}")


def _global(features: Features) -> Features:
    """As calibration shows them: global crops alone, without seeds."""
    return Features(crops={"global": features["global"]})
