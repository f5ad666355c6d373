"""Arguments of `Tokenizer`: dtypes, devices, empty batches, and what is refused, each in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.core.toy_tokenizer import PATCH, WIDTH, toy_tokenizer
from vtp_core import Decoded, Encoded, Tokenizer, load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import read_config
from vtp_core.errors import NumericError, UsageError
from vtp_core.ops import attention_choice
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer.checks import check_finite_latent, checked_pixels
from vtp_plugins.vtp_nano.artefact import folder

PIXELS = (0.4 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))).clamp(-1.5, 1.5)
CODES = torch.zeros(1, 1, 4, 4, dtype=torch.int64)


def with_statistics(**options: bool) -> Tokenizer:
    tokenizer = toy_tokenizer(**options)
    assert tokenizer.config is not None
    update = {"latents_mean": (0.0,) * WIDTH, "latents_std": (1.0,) * WIDTH}
    tokenizer.config = tokenizer.config.model_copy(update=update)
    return tokenizer


REFUSED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "layers": ("features", (PIXELS, [1]), "can't tap block 1; the encoder's are 0 to 0"),
    "layers by name": ("features", (PIXELS, "last"), "can't tap block 'last'"),
    "a layer from the end": ("features", (PIXELS, [-1]), "can't tap block -1"),
    "8-bit pixels": ("embed_image", (PIXELS.byte(),), "got torch.uint8"),
    "pixels of another rank": ("encode", (PIXELS[0],), r"expected pixels \(B, 3, H, W\)"),
    "pixels elsewhere": ("encode", (PIXELS.to("meta"),), "the pixels are on meta, the tokenizer on cpu"),
    "no latent": ("decode", (None,), "got NoneType"),
    "a result for its latent": ("decode", (toy_tokenizer().encode(PIXELS),), "got Encoded"),
    "no positions": ("decode", (torch.zeros(1, WIDTH, 0, 4),), rf"got torch.float32 \(1, {WIDTH}, 0, 4\)"),
    "one channel": ("decode_normalized", (torch.zeros(1, 1, 4, 4),), rf"\(B, {WIDTH}, h, w\)"),
    "a latent elsewhere": ("decode", (torch.zeros(1, WIDTH, 4, 4, device="meta"),), "the latent is on meta"),
    "float codes": ("decode_indices", (CODES.float(),), "got torch.float32"),
    "codes as a list": ("decode_indices", ([[0]],), "got list"),
    "codes without their axis": ("decode_indices", (CODES[:, 0],), r"got \(1, 4, 4\)"),
    "codes of two codebooks": ("decode_indices", (CODES.expand(1, 2, 4, 4),), r"\(B, 1, h, w\) int64"),
    "a code too large": ("decode_indices", (CODES + 2,), "codebook 0 are 0 to 1, these are 2 to 2"),
    "a negative code": ("decode_indices", (CODES - 1,), "these are -1 to -1"),
    "no text": ("embed_text", (None,), "expected texts or one text, got NoneType"),
    "a number among texts": ("embed_text", (["a", 3],), "text 1 is a int, not a str"),
    "features of another kind": ("encode_features", (PIXELS,), r"expected what features\(\) returns"),
    "8-bit pixels to images": ("postprocess", (PIXELS.byte(),), "got torch.uint8"),
    "a list to images": ("postprocess", ([PIXELS],), "got list"),
    "one image without batch": ("postprocess", (PIXELS[0],), r"got \(3, 16, 24\)"),
}


@pytest.mark.parametrize(("call", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused_in_one_line(call: str, arguments: tuple[Any, ...], message: str) -> None:
    tokenizer = with_statistics(codes=True)
    with pytest.raises(UsageError, match=f"^{call}: .*{message}") as caught:
        getattr(tokenizer, call)(*arguments)
    assert "\n" not in str(caught.value)


class Generated(nn.Module):
    def generate(self, indices: Tensor, seed: int, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(len(indices), *shape) + indices[:, None, None, None] + seed


@pytest.mark.parametrize(
    ("indices", "seed", "message"),
    [
        ([0], 0, "got list"),
        (torch.zeros(1), 0, "got torch.float32"),
        (torch.zeros(1, 1, dtype=torch.int64), 0, r"got \(1, 1\)"),
        (torch.zeros(1, dtype=torch.int64), 0.5, "the seed must be an integer, got float"),
        (torch.zeros(1, dtype=torch.int64, device="meta"), 0, "the indices are on meta"),
    ],
)
def test_wrong_indices_of_samples_are_refused(indices: Any, seed: Any, message: str) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.exports["generate"] = Generated()
    assert tokenizer.generate(torch.tensor([1, 2]), 3)[1, 0, 0, 0] == 5
    with pytest.raises(UsageError, match=f"^generate: .*{message}"):
        tokenizer.generate(indices, seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_codes_of_other_integer_types(dtype: torch.dtype) -> None:
    tokenizer = toy_tokenizer(codes=True)
    codes = tokenizer.encode(PIXELS).indices
    assert codes is not None
    found = tokenizer.decode_indices(codes.to(dtype)).sample
    assert torch.equal(found, tokenizer.decode_indices(codes).sample)


def test_empty_batches() -> None:
    tokenizer = with_statistics(codes=True)
    pixels = tokenizer.preprocess([])
    assert pixels.shape == (0, 3, 16, 16)
    encoded = tokenizer.encode(pixels)
    assert encoded.latent.shape == (0, WIDTH, 4, 4) and encoded.indices is not None
    for decoded in (
        tokenizer.decode(encoded.latent),
        tokenizer.decode_indices(encoded.indices),
        tokenizer.decode_normalized(tokenizer.encode_normalized(pixels)),
    ):
        assert decoded.sample.shape == (0, 3, 16, 16)
        assert tokenizer.postprocess(decoded.sample) == []
    assert tokenizer.embed_image([]).shape == (0, 5) and tokenizer.embed_text([]).shape == (0, 5)


def test_empty_batches_of_the_shipped_tokenizer() -> None:
    nano = load("vtp-nano")
    assert nano.postprocess(nano.decode(nano.encode([]).latent).sample) == []
    assert nano.embed_image([]).shape == nano.embed_text([]).shape == (0, 128)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_round_trip_in_another_precision(dtype: str) -> None:
    exact, rounded = load("vtp-nano"), load("vtp-nano", device="cpu", dtype=dtype)
    assert rounded.dtype == getattr(torch, dtype) and rounded.device == torch.device("cpu")
    assert exact.dtype == torch.float32 and exact.latent_channels == 32
    unit = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    pixels = rounded.preprocess(unit)
    assert pixels.dtype == rounded.dtype
    images = {}
    for name, tokenizer in (("exact", exact), ("rounded", rounded)):
        decoded = tokenizer.decode(tokenizer.encode(tokenizer.preprocess(unit)).latent).sample
        images[name] = torch.from_numpy(np.stack([np.array(i) for i in tokenizer.postprocess(decoded)]))
    assert (images["exact"].float() - images["rounded"].float()).abs().mean() < 2  # of 255
    # Pixels and latents of another precision are cast.
    latent = rounded.encode(exact.preprocess(unit)).latent
    assert latent.dtype == rounded.decode(latent.float()).sample.dtype == rounded.dtype


def test_load_refuses_what_it_does_not_know() -> None:
    for arguments, message in (
        ({"device": "abacus"}, "device abacus: .*; see `vtp doctor`"),
        ({"device": "meta:x"}, "device meta:x: "),
        ({"dtype": "int8"}, "dtype int8: expected one of float32, bfloat16, float16, float64"),
        ({"dtype": torch.int64}, "dtype torch.int64: expected"),
    ):
        with pytest.raises(UsageError, match=f"^load: {message}") as caught:
            load("vtp-nano", **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^load: expected a folder or a name, got int"):
        load(5)  # type: ignore[arg-type]


def test_it_is_described_in_ten_lines() -> None:
    lines = repr(load("vtp-nano")).splitlines()
    assert len(lines) == 10 and max(map(len, lines)) <= 100
    for part in (
        "step 1000",
        "64 x 64 pixels",
        "32 x 8 x 8, continuous",
        "encoder: vit, 2,262,912 parameters",
    ):
        assert any(part in line for line in lines)
    bare = Tokenizer(toy_tokenizer().encoder, toy_tokenizer(codes=True).bottleneck, None)
    lines = repr(bare).splitlines()
    assert len(lines) <= 10 and "  decoder: none" in lines and f"  latent: {WIDTH} x h x w, codes 2" in lines


class NoSynchronisation(TorchDispatchMode):
    """Fails where the host reads a value, or waits for a copy from one device to another."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"), name
        result = function(*args, **kwargs)
        if name == "_to_copy" and result.device != args[0].device:
            assert kwargs.get("non_blocking"), "a copy to another device that waits"
        return result


def test_nothing_in_encode_waits_for_the_device() -> None:
    nano, toy = load("vtp-nano"), toy_tokenizer(variational=True)
    with NoSynchronisation():
        nano.encode(nano.preprocess([]).new_zeros(2, 3, 64, 64))
        toy.encode(PIXELS)
    # The same on a GPU that is not there: a value that is read from it raises.
    with FakeTensorMode(allow_non_fake_inputs=True), NoSynchronisation():
        latent = on_fake_gpu(nano).encode(torch.zeros(2, 3, 64, 64, device="cuda")).latent
        assert latent.shape == (2, 32, 8, 8) and latent.device.type == "cuda"


def on_fake_gpu(tokenizer: Tokenizer) -> Tokenizer:
    """With fake weights, and an attention that is chosen without a look at the GPU."""
    tokenizer.encoder.use_attention(attention_choice("sdpa"))  # type: ignore[operator]
    for module in tokenizer.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(weight.shape, device="cuda"), requires_grad=False)
            setattr(module, name, fake)
    return tokenizer


FAULTS = {
    "item": lambda x: x.max().item(),
    "bool": lambda x: bool((x > 0).all()),
    "to the host": lambda x: x.cpu(),
    "to the device": lambda x: torch.zeros(3).to(x.device),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_call_that_waits_is_found(fault: Any) -> None:
    with FakeTensorMode(), NoSynchronisation(), pytest.raises(Exception):  # noqa: B017 torch's or the mode's own
        fault(torch.zeros(3, device="cuda"))


def test_pixels_out_of_range_on_a_gpu_become_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown with CPU tensors whose device claims to be another one."""
    pixels = torch.cat((PIXELS, 255 * PIXELS.abs().clamp(min=0.1)))
    with pytest.raises(UsageError, match="not ImageNet-normalised"):
        toy_tokenizer().encode(pixels)
    network = nn.Linear(1, 1)
    monkeypatch.setattr(torch.Tensor, "device", SimpleNamespace(type="cuda"))
    seen = checked_pixels("encode", pixels, PATCH, network)
    monkeypatch.undo()
    assert torch.equal(seen[:2], PIXELS) and seen[2:].isnan().all()


class RoundTrip(nn.Module):
    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, x: Tensor) -> tuple[Encoded, Decoded, Tensor]:
        encoded = self.tokenizer.encode(x)
        return encoded, self.tokenizer.decode(encoded.latent), self.tokenizer.embed_image(x)


@pytest.mark.slow
def test_the_batch_is_dynamic_under_export() -> None:
    config = read_config(folder())
    shallow = {part: getattr(config, part) | {"depth": 1} for part in ("encoder", "decoder")}
    nano = assemble(config.model_copy(update=shallow), load_plugins())
    model, x = RoundTrip(nano), torch.randn(3, 3, 64, 64).clamp(-2, 2)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False).module()
    for rows in (1, 3, 5):
        inputs = x[:1].expand(rows, -1, -1, -1) + 0.01 * torch.randn(rows, 1, 1, 1)
        found, expected = program(inputs), model(inputs)
        for outputs in zip(
            (found[0].latent, found[0].latent_dist.std, found[1].sample, found[2]),
            (expected[0].latent, expected[0].latent_dist.std, expected[1].sample, expected[2]),
            strict=True,
        ):
            torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_codes_of_weights_that_are_not_finite_are_refused() -> None:
    tokenizer = toy_tokenizer(codes=True)
    check_finite_latent(tokenizer.encode(PIXELS), tokenizer.bottleneck)
    tokenizer.bottleneck.register_buffer("scale", torch.tensor([1.0, float("inf")]))
    with pytest.raises(NumericError, match=r"^bottleneck: its weight scale is not finite"):
        check_finite_latent(tokenizer.encode(PIXELS), tokenizer.bottleneck)
