"""The gallery: which images, which pixels, one basis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.report.gallery import write_gallery
from vtp_core.tokenizer import Tokenizer


def open_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def flat_set(count: int) -> ArraySet:
    """Image i has the one grey value 124 - i, so that a darker image has a greater error under scale < 1."""
    images = np.stack([np.full((16, 16, 3), 110 - 2 * i, dtype=np.uint8) for i in range(count)])
    return ArraySet(
        name="greys", source=ArraySource(images=images, texts=tuple(f"grey {i}" for i in range(count)))
    )


def test_the_right_images_and_pixels_are_shown(tmp_path: Path) -> None:
    model = toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.5)
    file = write_gallery(model, flat_set(30), tmp_path / "samples", count=6, extremes=3, rows=4)
    record = json.loads(file.read_text())
    groups = {
        name: [i["key"] for i in record["images"] if i["group"] == name]
        for name in ("spread", "worst", "median")
    }
    assert groups["spread"] == ["s0", "s5", "s10", "s15", "s20", "s25"]
    assert groups["worst"] == ["s29", "s28", "s27"]
    # The whole set's median is between s14 and s15, and s15 is shown already.
    assert groups["median"] == ["s16", "s14", "s13"]
    assert record["held_out"] == "greys, all 30" and len(record["psnr"]["values"]) == 30
    item = record["images"][2]
    assert item["caption"] == "grey 10"
    source, output, error = (
        np.asarray(open_image(tmp_path / "samples" / item[name])) for name in ("input", "output", "error")
    )
    assert (source == 90).all()
    mean = np.array([0.485, 0.456, 0.406]) * 255
    assert np.abs(output[0, 0] - np.round((90 - mean) * 0.5 + mean)).max() <= 1
    assert np.array_equal(error, np.abs(source - output) * 4)
    mse = np.mean((source - output) ** 2.0)
    assert item["psnr"] == pytest.approx(10 * np.log10(255**2 / mse))


def test_an_image_is_in_one_group(tmp_path: Path) -> None:
    record = json.loads(write_gallery(toy_tokenizer(), flat_set(30), tmp_path / "samples").read_text())
    keys = [item["key"] for item in record["images"]]
    assert len(keys) == len(set(keys)) == 14 + 4 + 4


def test_interpolations_end_in_reconstructions(tmp_path: Path) -> None:
    model, data = toy_tokenizer(), drawn_set("val", 14, 0)
    record = json.loads(write_gallery(model, data, tmp_path / "samples").read_text())
    outputs = {item["key"]: item["output"] for item in record["images"]}
    for line in record["interpolations"]:
        frames = [open_image(tmp_path / "samples" / name) for name in line["frames"]]
        start, end = (open_image(tmp_path / "samples" / outputs[line[side]]) for side in ("from", "to"))
        assert np.array_equal(frames[0], start) and np.array_equal(frames[-1], end)
        # The toy decodes linearly, so that the middle of the line is the mean of its ends.
        assert np.abs(frames[3] - (start + end) / 2).max() <= 1


def test_facts_of_the_tokenizer_are_recorded(tmp_path: Path) -> None:
    model = toy_tokenizer()
    record = json.loads(write_gallery(model, drawn_set("val", 5, 0), tmp_path / "samples").read_text())
    assert record["latent"]["shape"] == [48, 4, 4] and record["bytes"] == 48 * 4 * 4 * 2
    assert record["parameters"] == {"encoder": 4, "decoder": 1, "heads": 5 * 48 + 64 * 5}
    coded = toy_tokenizer(codes=True)
    record = json.loads(write_gallery(coded, drawn_set("val", 5, 0), tmp_path / "samples").read_text())
    assert record["latent"]["codes"] == [2] and record["bytes"] == 4 * 4 / 8


def test_latent_statistics_and_basis_are_numpys(tmp_path: Path) -> None:
    model, data = toy_tokenizer(), drawn_set("val", 12, 0)
    record = json.loads(write_gallery(model, data, tmp_path / "samples", rows=5).read_text())
    (batch,) = data.batches(16, 12)
    latent = model.encode(batch.to(model.device).image).latent.detach().double()
    flat = latent.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    np.testing.assert_allclose(record["latent"]["mean"], flat.mean(0), atol=1e-9)
    np.testing.assert_allclose(record["latent"]["std"], flat.std(0), atol=1e-9)
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(record["latent"]["explained"], values / values.sum(), atol=1e-9)
    with Image.open(tmp_path / "samples" / record["images"][0]["latent"]) as picture:
        assert picture.size == (4, 4)


def test_it_is_replaced_and_reproducible(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    write_gallery(toy_tokenizer(), drawn_set("val", 5, 0), folder, made_from="a")
    (folder / "old.png").write_bytes(b"x")
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "old.png"}
    torch.manual_seed(0)
    write_gallery(toy_tokenizer(), drawn_set("val", 5, 0), folder, made_from="a")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples"]


def test_it_needs_a_decoder(tmp_path: Path) -> None:
    whole = toy_tokenizer()
    model = Tokenizer(whole.encoder, whole.bottleneck, None, config=whole.config)
    with pytest.raises(UsageError, match="decoder"):
        write_gallery(model, drawn_set("val", 5, 0), tmp_path / "samples")
