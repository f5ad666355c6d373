"""The recipes of `vtp init` train, measure and report as they are; here for two steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.core.data.making import encoded, write_tar
from vtp_core.cli.main import main
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.init.choice import choose
from vtp_plugins.init.machine import Machine
from vtp_plugins.init.recipe import recipe_text
from vtp_plugins.init.scan import Findings
from vtp_plugins.samples.config import SamplesConfig
from vtp_plugins.samples.source import CLASSES, Samples

FEW = ("run.steps=2", "run.device=cpu", "evaluate.statistics_samples=8", "encoder.depth=1", "decoder.depth=1")


def drawings(count: int, start: int = 0) -> list[tuple[str, Image.Image, str, str]]:
    """Number, picture, caption and class of some samples."""
    source = Samples(SamplesConfig(), DecodeLimits())
    found = [source.read(index, source.fields) for index in range(start, start + count)]
    return [
        (f"{number:04}", Image.fromarray(s.image), s.text or "", CLASSES[s.label or 0][:2])  # type: ignore[arg-type]
        for number, s in enumerate(found, start)
    ]


def class_folders(folder: Path, start: int = 0, count: int = 160) -> None:
    for number, image, text, name in drawings(count, start):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{number}.png")
        (folder / name / f"{number}.txt").write_text(text)


def splits(folder: Path) -> None:
    class_folders(folder / "train")
    class_folders(folder / "val", 160, 60)


def metadata(folder: Path) -> None:
    folder.mkdir()
    rows = []
    for number, image, text, name in drawings(100):
        image.resize((48, 32)).save(folder / f"{number}.jpg")
        rows.append({"file_name": f"{number}.jpg", "text": text, "label": name})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def shards(folder: Path) -> None:
    folder.mkdir()
    members = []
    for number, image, text, name in drawings(100):
        label = str(sorted(set(CLASSES)).index(next(c for c in CLASSES if c.startswith(name))))
        members += [(f"{number}/image.png", encoded(image)), (f"{number}/caption.txt", text.encode())]
        members += [(f"{number}/label.txt", label.encode())]
    write_tar(folder / "a.tar", members)


def a_handful(folder: Path) -> None:
    folder.mkdir()
    for number, image, _, _ in drawings(9):
        image.resize((20, 20)).save(folder / f"{number}.bmp")


LAYOUTS: Mapping[str, tuple[Callable[[Path], None], set[str]]] = {
    "class folders": (class_folders, {"psnr", "knn", "linear_probe", "retrieval_r1", "zero_shot"}),
    "train and val": (splits, {"psnr", "knn", "retrieval_r1"}),
    "metadata.jsonl": (metadata, {"psnr", "retrieval_r1"}),
    "shards": (shards, {"psnr", "retrieval_r1"}),
    "a handful": (a_handful, {"psnr"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recipe_runs_as_it_is(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, metrics = LAYOUTS[layout]
    monkeypatch.chdir(tmp_path)
    machine = Machine(cores=2, gpu_gib=0.0, bfloat16=False, perceptual=False)
    monkeypatch.setattr(Machine, "this", classmethod(lambda cls: machine))
    make(tmp_path / "set")
    result = CliRunner().invoke(main, ["init", "set"])
    assert result.exit_code == 0, result.output
    few = [part for value in FEW for part in ("-s", value)]
    result = CliRunner().invoke(main, ["run", "set.toml", *few])
    assert result.exit_code == 0, result.output
    assert metrics <= set(json.loads(Path("runs/set/eval.json").read_text()))
    assert Path("runs/set/report.html").is_file() and Path("runs/set/tokenizer/config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("gib", [8, 24, 80])
def test_a_recipe_for_a_gpu_fits_its_memory(gib: int, tmp_path: Path) -> None:
    """By the estimate of `vtp plan`, for all objectives together; a quarter stays free."""
    machine = Machine(cores=16, gpu_gib=float(gib), bfloat16=True, perceptual=True)
    captions = Counter({str(number).encode(): 1 for number in range(1000)})
    images = Findings(20_000, read=1000, sides=[(640, 640)] * 1000, captions=captions, held_out=0.05)
    table = {"use": "image_folder", "path": "images"}
    path = tmp_path / "gpu.toml"
    path.write_text(recipe_text("gpu", choose(images, machine), table, table))
    result = CliRunner().invoke(main, ["plan", str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["memory"]["total"] < 0.75 * gib * 2**30
