"""`vtp encode`: latents and codes of a folder of images in one file."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from tests.core.cli.small_tokenizer import vtp
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.plugins import load_plugins


def test_encode_and_decode_are_the_tokenizers(home: Path, tmp_path: Path) -> None:
    latents = tmp_path / "z" / "latents.safetensors"
    result = vtp("encode", home / "artefact", home / "photos", "-o", latents, "--rows", 5, "--crop")
    assert result.exit_code == 0 and "12 x 6 x 2 x 2" in result.output, result.output
    result = vtp("decode", home / "artefact", latents, "-o", tmp_path / "out", "--rows", 5)
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files][:2] == ["000000-blue0.png", "000001-blue1.png"] and len(files) == 12
    model = load(home / "artefact")
    with Image.open(home / "photos" / "blue" / "blue1.png") as image:
        pixels = model.preprocess([image])
    encoded = model.encode(pixels)
    torch.testing.assert_close(load_file(latents)["latents"][1:2], encoded.latent)
    expected = model.postprocess(model.decode(encoded.latent).sample)[0]
    with Image.open(files[1]) as image:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= 1
    result = vtp("decode", "vtp-nano", latents, "-o", tmp_path / "other")
    assert result.exit_code == 5 and "belongs to the tokenizer" in result.output, result.output
    assert not (tmp_path / "other").exists()


def test_encode_crops_nothing_unasked_and_keeps_shapes_apart(home: Path, tmp_path: Path) -> None:
    """A bright far end of a wide image reaches the latent, which the centre crop cuts off."""
    photos, out = tmp_path / "photos", tmp_path / "latents.safetensors"
    photos.mkdir()
    for name, size in (
        ("a-wide", (48, 16)),
        ("b-tall", (16, 40)),
        ("c-square", (16, 16)),
        ("d-wide", (96, 32)),
    ):
        Image.new("RGB", size, "gray").save(photos / f"{name}.png")
    bright = Image.new("RGB", (48, 16), "gray")
    bright.paste("white", (40, 0, 48, 16))
    bright.save(photos / "a-wide.png")
    Image.new("RGB", (8, 200)).save(photos / "e-strip.png")
    result = vtp("encode", home / "artefact", photos, "-o", out, "--rows", 2)
    assert result.exit_code == 3
    assert "e-strip.png: too long (8x200: longer side above 8 times the shorter;" in result.stderr
    with safe_open(out, "pt") as file:
        names = json.loads(file.metadata()["images"])
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}
        wide, square = file.get_tensor("latents.2x6"), file.get_tensor("latents.2x2")
    assert shapes == {"latents.2x6": (2, 6, 2, 6), "latents.5x2": (1, 6, 5, 2), "latents.2x2": (1, 6, 2, 2)}
    assert {shape: [Path(name).stem for name in of] for shape, of in names.items()} == {
        "2x6": ["a-wide", "d-wide"], "5x2": ["b-tall"], "2x2": ["c-square"]
    }  # fmt: skip
    assert not torch.allclose(wide[0], wide[1], atol=1e-2)
    model = load(home / "artefact")
    torch.testing.assert_close(square, model.encode(model.preprocess(photos / "c-square.png")).latent)
    assert vtp("decode", home / "artefact", out, "-o", tmp_path / "back").exit_code == 0
    sizes = {}
    for path in (tmp_path / "back").iterdir():
        with Image.open(path) as image:
            sizes[path.stem[7:]] = image.size
    assert sizes == {"a-wide": (48, 16), "d-wide": (48, 16), "b-tall": (16, 40), "c-square": (16, 16)}
    assert vtp("encode", home / "artefact", photos, "-o", out, "--crop").exit_code == 0
    cropped = load_file(out)["latents"]
    assert cropped.shape == (5, 6, 2, 2)
    torch.testing.assert_close(cropped[0], cropped[2], msg="the centre of the wide image is gray")


def test_latents_that_are_not_finite_are_not_written(home: Path, tmp_path: Path) -> None:
    model = load(home / "artefact")
    with torch.no_grad():
        next(model.bottleneck.parameters()).fill_(3e38)
    model.save(tmp_path / "broken")
    out = tmp_path / "latents.safetensors"
    result = vtp("encode", tmp_path / "broken", home / "photos", "-o", out)
    assert result.exit_code == 4, result.output
    assert "blue0.png: bottleneck: the latent is not finite (row 0 of 12)" in result.output
    assert not out.exists()


DISCRETE = """
import torch
from torch import nn
import vtp_core as vtp

vtp_api = 2

class Config(vtp.ComponentConfig):
    use: str = "signs"

class Signs(vtp.Bottleneck):
    channels, codebook_sizes = 1, (2,)

    def __init__(self, config, dims):
        super().__init__()
        self.proj = nn.Linear(dims.width, 1)

    def forward(self, features):
        tokens = features["global"]
        codes = (self.proj(tokens.patches)[..., 0] > 0).long()
        patches = self.decode_codes(codes.unsqueeze(-1)).to(tokens.patches.dtype)
        codes = codes.unflatten(2, tokens.grid).unsqueeze(2)
        return vtp.Latent(
            crops={"global": vtp.Tokens(patches=patches, grid=tokens.grid)}, codes={"global": codes}
        )

    def decode_codes(self, codes):
        return codes * 2.0 - 1

@vtp.hookimpl
def register_bottlenecks(register):
    register("signs", Signs, config=Config, summary="Signs.")
"""


@pytest.mark.parametrize(
    ("name", "value", "code", "message"),
    [
        ("encoder.norm.weight", 3e38, 4, "blue0.png: encoder: patch tokens are not finite (row 0 of 12)"),
        ("bottleneck.proj.weight", float("nan"), 5, "its weight bottleneck.proj.weight is not finite"),
        (None, 0.0, 0, ""),
    ],
)
def test_codes_of_a_tokenizer_that_is_not_finite_are_not_written(
    home: Path, tmp_path: Path, name: str | None, value: float, code: int, message: str
) -> None:
    """Codes, and the latents that stand for them, are finite whatever they were computed from."""
    plugin = tmp_path / "own.py"
    plugin.write_text(DISCRETE)
    plugins = load_plugins((plugin,))
    base = load(home / "artefact").config
    assert base is not None
    model = assemble(base.model_copy(update={"bottleneck": {"use": "own.signs"}, "decoder": None}), plugins)
    if name is not None:
        with torch.no_grad():
            model.get_parameter(name).fill_(value)
    model.save(tmp_path / "discrete")
    out = tmp_path / "codes.safetensors"
    result = vtp("encode", tmp_path / "discrete", home / "photos", "-o", out, "--plugin", plugin)
    if name is None:
        assert result.exit_code == 0 and load_file(out)["indices"].shape == (12, 1, 2, 2), result.output
    else:
        assert result.exit_code == code and message in result.output and not out.exists(), result.output


def test_normalised_latents_need_statistics_and_come_back(home: Path, tmp_path: Path) -> None:
    result = vtp(
        "encode", home / "artefact", home / "photos", "-o", tmp_path / "a.safetensors", "--normalized"
    )
    assert result.exit_code == 2 and "no latent statistics" in result.output
    result = vtp("export", home / "run", tmp_path / "exported")
    assert result.exit_code == 0, result.output
    crops = ("encode", tmp_path / "exported", home / "photos", "--crop")
    vtp(*crops, "-o", tmp_path / "n.safetensors", "--normalized")
    vtp(*crops, "-o", tmp_path / "p.safetensors")
    normal = load_file(tmp_path / "n.safetensors")["latents"]
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(6), atol=1e-3, rtol=0)
    for name in ("n", "p"):
        vtp("decode", tmp_path / "exported", tmp_path / f"{name}.safetensors", "-o", tmp_path / name)
    for path in (tmp_path / "p").iterdir():
        with Image.open(path) as a, Image.open(tmp_path / "n" / path.name) as b:
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= 1


def test_encode_leaves_out_and_names_what_is_no_image(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is handed to Ghostscript, a header is believed before pixels, and the rest is written."""
    mark, programs, photos = tmp_path / "ran", tmp_path / "bin", tmp_path / "photos"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n[ $1 = --version ] && echo 10.0\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    (photos / ".thumbnails").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(photos / "b.png")
    Image.new("RGB", (20, 20), "blue").save(photos / "z.png")
    Image.new("RGB", (20, 20), "blue").save(photos / ".thumbnails" / "z.png")
    Image.new("1", (9000, 9000)).save(photos / "huge.png")
    (photos / "half.png").write_bytes((photos / "b.png").read_bytes()[:60])
    (photos / "._b.png").write_bytes(b"\0\5\x16\7")
    (photos / "script.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\n"
    )
    out = tmp_path / "out.safetensors"
    result = vtp("encode", home / "artefact", photos, "-o", out, "--rows", 2)
    assert result.exit_code == 3 and not mark.exists(), result.output
    assert f"{photos}: hidden file (skipped): 1, the first: ._b.png\n" in result.stderr
    assert "internal" not in result.output
    for name, reason in (("half", "image"), ("huge", "too many pixels"), ("script", "not an image")):
        assert f"left out: {photos / name}.png: " in result.stderr and reason in result.stderr
    assert "3 of 5 images can't be read and were left out" in result.output
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["images"]) == [str(photos / "b.png"), str(photos / "z.png")]
        assert file.get_tensor("latents").shape[0] == 2


def test_latents_that_can_not_be_written_leave_what_was_there(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents.safetensors"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for before in (None, b"of an earlier call"):
        if before is not None:
            out.write_bytes(before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        try:
            result = vtp("encode", home / "artefact", home / "photos", "-o", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert result.exit_code == 74
        message = "File too large; raise the limit on the size of files (ulimit -f)"
        assert result.stderr.splitlines()[-1] == f"error: {out}: {message}"
        assert (out.read_bytes() if out.exists() else None) == before
