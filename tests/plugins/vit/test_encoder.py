"""The `vit` encoder: packing, masks, taps, drop path, checkpointing, autocast, errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vtp_core.features import Tokens
from vtp_plugins.vit.attention import CropRows, Layout
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.encoder import VitEncoder


def encoder(**changes: Any) -> VitEncoder:
    given = {"width": 24, "depth": 3, "heads": 2, "patch": 4, **changes}
    built = VitEncoder(VitEncoderConfig(**given))
    for name, parameter in built.named_parameters():
        # Larger than at the start of a training, so that every path matters.
        if parameter.dim() > 1 and "patch_embed" not in name:
            nn.init.normal_(parameter, std=0.3)
    return built


def crops() -> list[Tensor]:
    return [torch.randn(3, 2, 3, 16, 16), torch.randn(3, 4, 3, 8, 12)]


def total(tokens: Sequence[Tokens]) -> Tensor:
    terms = [
        t.patches.square().sum() + t.cls.sin().sum() + sum(x.cos().sum() for x in t.layers.values())
        for t in tokens
    ]
    return torch.stack(terms).sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm": "layernorm", "ffn": "mlp", "qk_norm": False, "layer_scale": 0.1},
    {"norm": "layernormbf16", "ffn": "swiglu64", "rope_dtype": "bfloat16", "rope_periods_saved": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_packed_crops_equal_separate_passes(options: dict[str, Any]) -> None:
    built, images = encoder(**options), crops()
    masks = [torch.rand(3, 2, 16) < 0.4, None]
    packed = built(images, masks, layers=(0, 2))
    for tokens, image, mask in zip(packed, images, masks, strict=True):
        [alone] = built([image], [mask], layers=(0, 2))
        torch.testing.assert_close(tokens.patches, alone.patches, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.cls, alone.cls, atol=1e-5, rtol=1e-5)
        assert tokens.grid == alone.grid
        for layer in (0, 2):
            torch.testing.assert_close(tokens.layers[layer], alone.layers[layer], atol=1e-5, rtol=1e-5)


def test_packed_gradients_equal_separate_passes() -> None:
    built, images = encoder().double(), [image.double() for image in crops()]
    total(built(images, [None, None])).backward()
    packed = gradients(built)
    built.zero_grad()
    for image in images:
        total(built([image], [None])).backward()
    for name, gradient in gradients(built).items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-9, rtol=1e-9)


@given(
    rows=st.integers(1, 3),
    count=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    cls=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_shapes_and_rows_are_independent(
    rows: int, count: int, grid: tuple[int, int], cls: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    built = encoder(depth=1, cls_token=cls)
    image = torch.randn(rows, count, 3, grid[0] * 4, grid[1] * 4)
    [tokens] = built([image], [None])
    assert tokens.grid == grid
    assert tokens.patches.shape == (rows, count, grid[0] * grid[1], 24)
    assert (tokens.cls is not None) == cls == built.has_cls
    [last] = built([image[-1:, -1:]], [None])
    torch.testing.assert_close(tokens.patches[-1:, -1:], last.patches, atol=1e-5, rtol=1e-5)
    if cls:
        torch.testing.assert_close(tokens.cls[-1:, -1:], last.cls, atol=1e-5, rtol=1e-5)


def test_masked_patches_are_not_seen() -> None:
    built = encoder()
    nn.init.normal_(built.mask_token)
    image = torch.randn(1, 1, 3, 8, 8)
    mask = torch.tensor([[[False, True, False, False]]])
    changed = image.clone()
    changed[..., :4, 4:] = 9.0
    [one], [other] = built([image], [mask]), built([changed], [mask])
    assert torch.equal(one.patches, other.patches)
    assert torch.equal(one.cls, other.cls)
    [unmasked] = built([image], [None])
    assert not torch.allclose(one.patches, unmasked.patches)
    [none_masked] = built([image], [torch.zeros_like(mask)])
    assert torch.equal(none_masked.patches, unmasked.patches)


def test_patch_order_is_row_major_and_positions_matter() -> None:
    built = encoder()
    image = torch.zeros(1, 1, 3, 8, 12)
    image[..., 4:, :4] = 1.0
    embedded = built.patch_embed(image[:, 0])
    assert [not torch.equal(embedded[0, n], embedded[0, 0]) for n in range(6)] == [n == 3 for n in range(6)]
    [tokens] = built([image], [None])
    # The same content at other places: only the positions tell them apart.
    assert not torch.allclose(tokens.patches[0, 0, 0], tokens.patches[0, 0, 5])


def test_taps_are_block_outputs_before_the_final_norm() -> None:
    built, [image, _] = encoder(), crops()
    [tokens] = built([image], [None], layers=(1, 2))
    assert set(tokens.layers) == {1, 2}
    torch.testing.assert_close(built.norm(tokens.layers[2]), tokens.patches)
    single = built.intermediate(image[:, 0], (1,))
    torch.testing.assert_close(single[1][:, 1:], tokens.layers[1][:, 0], atol=1e-5, rtol=1e-5)
    final = built.intermediate(image[:, 0], (2,), normed=True)[2]
    torch.testing.assert_close(final[:, 0], tokens.cls[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["row", "subset"])
def test_drop_path_repeats_itself_by_seed_and_rests_in_evaluation(mode: str) -> None:
    built, images = encoder(drop_path_mode=mode).train(), crops()
    plain = built(images, [None, None])
    outs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outs.append(built(images, [None, None], drop_path=0.5))
    assert torch.equal(outs[0][1].patches, outs[1][1].patches)
    assert not torch.equal(outs[0][1].patches, outs[2][1].patches)
    assert not torch.equal(outs[0][0].patches, plain[0].patches)
    state = torch.get_rng_state()
    rested = built.eval()(images, [None, None], drop_path=0.5)
    assert torch.equal(rested[0].patches, plain[0].patches)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", ["row", "subset"])
def test_drop_path_keeps_the_expected_sum(mode: str) -> None:
    # Many rows of the same tokens: the mean over rows and draws is the whole branch.
    built = encoder(depth=1, drop_path_mode=mode).train()
    block = built.blocks()[0]
    rows = torch.randn(1, 1, 3, 4, 4).expand(400, -1, -1, -1, -1)
    embedded = built._embed(rows, None)
    layout = Layout([CropRows(400, 2, built.rope_embed((1, 1), embedded))])
    x = embedded.flatten(0, 1)
    attention_only = x + block._attention(x, layout)
    draws = torch.stack([block._add(x, layout, block._attention, 0.3) for _ in range(50)])
    moved = (draws.view(50 * 400, 2, -1) - x.view(400, 2, -1)[0]).abs().sum((1, 2)) > 1e-6
    assert moved.float().mean().item() == pytest.approx(0.7, abs=0.02)
    mean = draws.view(50 * 400, 2, -1).mean(0)
    expected = attention_only.view(400, 2, -1)[0]
    torch.testing.assert_close(
        mean - x.view(400, 2, -1)[0], expected - x.view(400, 2, -1)[0], rtol=0.03, atol=1e-4
    )


def test_a_subset_skips_the_work() -> None:
    built = encoder(drop_path_mode="subset", depth=1).train()
    seen: list[int] = []
    built.blocks()[0].mlp.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    images = [torch.randn(10, 1, 3, 8, 8), torch.randn(10, 2, 3, 4, 4)]
    built(images, [None, None], drop_path=0.3)
    assert seen == [7 * 5 + 14 * 2]
    built([image[:1] for image in images[:1]], [None], drop_path=0.9)
    assert seen[1:] == [5]


@pytest.mark.parametrize("mode", ["row", "subset"])
def test_checkpointed_blocks_give_equal_gradients(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built, images = encoder(drop_path_mode=mode).train(), crops()
    torch.manual_seed(5)
    total(built(images, [None, None], layers=(1,), drop_path=0.4)).backward()
    plain = gradients(built)
    built.zero_grad()
    for block in built.blocks():
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
        )
    torch.manual_seed(5)
    total(built(images, [None, None], layers=(1,), drop_path=0.4)).backward()
    for name, gradient in gradients(built).items():
        assert torch.equal(gradient, plain[name]), name


def test_forward_changes_no_state_and_gives_every_parameter_a_gradient() -> None:
    for options in OPTIONS:
        built = encoder(**options).train()
        before = {name: value.clone() for name, value in built.state_dict().items()}
        total(built(crops(), [None, None], drop_path=0.1)).backward()
        assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
        assert [name for name, gradient in gradients(built).items() if gradient is None] == []
        assert bool((built.mask_token.grad == 0).all())


def test_each_block_is_called_once_a_forward() -> None:
    built, calls = encoder(), []
    for index, block in enumerate(built.blocks()):
        block.register_forward_hook(lambda module, args, out, index=index: calls.append(index))
    built(crops(), [None, None])
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("options", OPTIONS)
def test_autocast_keeps_the_residual_stream_wide(options: dict[str, Any]) -> None:
    built, images = encoder(**options), crops()
    expected = built(images, [None, None])
    with torch.autocast("cpu", torch.bfloat16):
        found = built(images, [None, None], layers=(0,))
    for one, other in zip(found, expected, strict=True):
        assert one.patches.dtype == one.cls.dtype == one.layers[0].dtype == torch.float32
        assert (one.patches - other.patches).norm() / other.patches.norm() < 0.05


def test_positions_survive_a_cast_of_the_model() -> None:
    built = encoder()
    expected = built.rope_embed((3, 5), torch.zeros(1))
    found = built.bfloat16().rope_embed((3, 5), torch.zeros(1, dtype=torch.bfloat16))
    assert torch.equal(found.cos, expected.cos)
    assert found.cos.dtype == torch.float32
    [tokens] = built([torch.randn(1, 1, 3, 8, 8, dtype=torch.bfloat16)], [None])
    assert tokens.patches.dtype == torch.bfloat16


def test_initial_values_can_be_drawn_after_to_empty() -> None:
    config = VitEncoderConfig(**{"width": 24, "depth": 2, "heads": 2, "patch": 4}, **OPTIONS[2])
    drawn = VitEncoder(config)
    torch.manual_seed(1)
    drawn.reset_parameters()
    expected = drawn.state_dict()
    with torch.device("meta"):
        built = VitEncoder(config)
    built.to_empty(device="cpu")
    with torch.no_grad():
        for value in built.state_dict().values():
            value.fill_(float("nan"))
    torch.manual_seed(1)
    built.reset_parameters()
    for name, value in built.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("image", "mask", "layers", "message"),
    [
        ((1, 1, 3, 8, 10), None, (), "8 x 10 pixels is no multiple of the patch 4"),
        ((1, 1, 3, 8, 8), (1, 1, 5), (), "mask .* for 2 x 2 patches"),
        ((1, 1, 3, 8, 8), None, (3,), "can't tap block 3: the blocks are 0 to 2"),
    ],
)
def test_errors(
    image: tuple[int, ...], mask: tuple[int, ...] | None, layers: tuple[int, ...], message: str
) -> None:
    masked = None if mask is None else torch.zeros(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        encoder()([torch.zeros(image)], [masked], layers=layers)
