"""The first sentence: what, size, latent, parameters, compression, data, time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vtp_core.report.run_data import RunData
from vtp_core.report.sentence import facts, sentence, source_name

LATENT = {"shape": [32, 8, 8], "codes": []}
ROWS = [
    {"step": 10, "samples": 640, "rows_per_s": 64.0},
    {"step": 10, "eval/knn": 0.5},
    {"step": 300, "samples": 19200, "rows_per_s": 128.0},
]
GALLERY = {
    "latent": LATENT, "bytes": 4096, "parameters": {"encoder": 2_700_000, "decoder": 1_840_000, "heads": 9}
}  # fmt: skip
RECIPE = {"run": {"steps": 300}, "data": {"source": {"use": "samples", "split": "train"}}}


def run(**parts: Any) -> RunData:
    whole = {
        "recipe": RECIPE, "metrics": ROWS, "gallery": GALLERY, "artefact": {"image_size": 64, "step": 300},
        "environment": {"device": "cpu"},
    }  # fmt: skip
    return RunData(name="x", images=Path(), **{**whole, **parts})


def text(data: RunData) -> str:
    return sentence(data).replace("\u202f", " ")


def test_the_sentence_of_a_whole_run() -> None:
    # 10 s for the first 640 samples, 145 s for the other 18 560.
    assert text(run()) == (
        "A visual tokenizer for images of 64 × 64 px with latents of 32 × 8 × 8 (6 times fewer numbers) and "
        "4.54 M parameters, trained on 19 200 samples of samples/train in 2 min 35 s on the CPU."
    )


def test_codes_are_counted_in_bytes() -> None:
    gallery = {**GALLERY, "latent": {"shape": [8, 8, 8], "codes": [1024]}, "bytes": 80}
    assert "with 8 × 8 codes of 1 024 (153.6 times fewer bytes)" in text(run(gallery=gallery))


def test_rectangular_images() -> None:
    gallery = {**GALLERY, "latent": {"shape": [32, 8, 12], "codes": []}}
    words = text(run(artefact={"image_size": [64, 96]}, gallery=gallery))
    assert "of 64 × 96 px with latents of 32 × 8 × 12 (6 times fewer numbers)" in words


@pytest.mark.parametrize("missing", ["metrics", "gallery", "artefact", "environment", "recipe"])
def test_what_is_missing_is_left_out(missing: str) -> None:
    words = text(run(**{missing: [] if missing == "metrics" else {}}))
    assert words.startswith("A visual tokenizer") and words.endswith(".") and "None" not in words
    assert text(RunData(name="x", images=Path())) == "A visual tokenizer."


def test_sources_are_named_by_the_last_part_of_their_path() -> None:
    assert source_name({"use": "image_folder", "path": "/data/my photos/"}) == "image_folder my photos"
    assert source_name({"use": "webdataset", "urls": ["a/b.tar", "c.tar"]}) == "webdataset b.tar"
    assert source_name(3) == "?"


def test_a_stopped_run_says_how_to_go_on() -> None:
    found = {fact.name: fact for fact in facts(run(artefact={}, best=(200, "knn.knn", 0.512)))}
    assert found["status"].value == "stopped" and "--resume" in found["status"].note
    assert found["steps"].value == "300" and found["best"].note == "knn.knn 0.512"
