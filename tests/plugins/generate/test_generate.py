"""`vtp generate`: which images it writes, what it says of them, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from vtp_core import Tokenizer, load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig, Head
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError, DataError, UsageError
from vtp_core.plugins import load_plugins
from vtp_plugins.generate.classes import read_classes
from vtp_plugins.generate.grid import GAP, MARGIN, Layout, by_class, field
from vtp_plugins.generate.record import read_record

PLUGINS = load_plugins(only=["vit", "linear", "generation", "generate"])
VIT = {"use": "vit", "width": 16, "depth": 1, "heads": 1}
CLASSES = ("cat", "dog", "a/../b")


def made(*, generator: bool = True) -> Tokenizer:
    """A tiny tokenizer with random weights, and a generator of three classes."""
    transformer = {"width": 16, "depth": 1, "heads": 2, "patch": 1}
    objective = {"use": "generation", "view": "image", "classes": 3, "transformer": transformer}
    head = Head(objective=objective, exports={"generate": "generator"})
    config = ArtefactConfig(
        vtp_version="0",
        recipe="tiny",
        encoder={**VIT, "patch": 8},
        bottleneck={"use": "linear", "channels": 4},
        decoder=VIT,
        heads={"generation": head} if generator else {},
        image_size=16,
        classes=CLASSES,
    )
    torch.manual_seed(0)
    model = assemble(config, PLUGINS)
    noise = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "encoder" not in name:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    if generator:
        model.exports["generate"].grid.copy_(torch.tensor([2, 2]))  # type: ignore[operator, union-attr]
    return model


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made().save(tmp_path_factory.mktemp("generate") / "tokenizer")


def vtp(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, arguments), "--steps", "3"])


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))]


def test_an_image_depends_on_seed_and_number_alone(artefact: Path, tmp_path: Path) -> None:
    for name, keys in {"a": ["-n", 5], "b": ["-n", 3, "--rows", 1], "c": ["-n", 3, "--seed", 1]}.items():
        assert vtp(artefact, *keys, "-o", tmp_path / name).exit_code == 0
    many, few, other = (pixels(tmp_path / name) for name in "abc")
    assert [len(many), len(few)] == [5, 3]
    for i in range(3):
        assert np.abs(many[i] - few[i]).max() <= 1 < np.abs(many[i] - other[i]).max()
    model = load(artefact, plugins=PLUGINS)
    latent = model.generate(torch.arange(5), 0, settings={"steps": 3})
    with torch.no_grad():
        expected = model.postprocess(model.decode(latent).sample)
    assert np.abs(np.asarray(expected[4]).astype(int) - many[4]).max() <= 1


def test_classes_by_name_and_number_in_turn(artefact: Path, tmp_path: Path) -> None:
    result = vtp(artefact, "-n", 5, "--classes", "Dog, 2", "-o", tmp_path / "a", "--guidance", "2", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert facts["classes"] == ["dog", "a/../b", "dog", "a/../b", "dog"]
    assert facts["settings"]["guidance"] == 2
    assert record["files"][:2] == ["000000-dog.png", "000001-a_b.png"]
    assert sorted(path.name for path in (tmp_path / "a").glob("*.png")) == record["files"]
    config = json.loads((artefact / "config.json").read_text())
    assert record["tokenizer"] == {"name": "tiny", "fingerprint": config["fingerprint"]}
    model = load(artefact, plugins=PLUGINS)
    latent = model.generate(
        torch.arange(2), 0, classes=torch.tensor([1, 2]), settings={"steps": 3, "guidance": 2.0}
    )
    with torch.no_grad():
        expected = model.postprocess(model.decode(latent).sample)
    shown = pixels(tmp_path / "a")
    for i in range(2):
        assert np.abs(np.asarray(expected[i]).astype(int) - shown[i]).max() <= 1


def test_the_picture_has_a_row_of_each_class(artefact: Path, tmp_path: Path) -> None:
    result = vtp(artefact, "-n", 6, "--classes", "all", "--grid", tmp_path / "x" / "grid.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "x" / "grid.png") as picture:
        height = 2 * MARGIN + 3 * (96 + GAP) - GAP
        assert picture.height == height and picture.width > 2 * 96 + GAP + 2 * MARGIN


def test_samples_stand_in_their_cells() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9), (99, 99, 99)]
    samples = [Image.new("RGB", (64, 64), colour) for colour in colours]
    picture = Layout.of(field(5), 64, 64).draw(samples)
    assert picture.size == (2 * MARGIN + 3 * 132 - GAP, 2 * MARGIN + 2 * 132 - GAP)
    for index, colour in enumerate(colours):
        row, column = divmod(index, 3)
        assert picture.getpixel((MARGIN + column * 132 + 64, MARGIN + row * 132 + 64)) == colour
    titled = Layout.of([("cat", [0, 1])], 64, 64).draw(samples)
    assert titled.width > 2 * MARGIN + 2 * 132 - GAP and min(titled.convert("L").tobytes()) < 100
    assert by_class([2, 0, 2], ["crane", "dog", "crane"]) == [("crane", [0, 2]), ("dog", [1])]
    assert by_class([2, 0], ["crane", "crane"]) == [("crane", [0]), ("crane", [1])]


def test_a_tuned_decoder_may_decode_and_another_tokenizer_not(artefact: Path, tmp_path: Path) -> None:
    tuned = made(generator=False)
    next(iter(tuned.decoder.parameters())).mul_(2)  # type: ignore[union-attr]
    tuned.save(tmp_path / "tuned")
    other = made(generator=False)
    next(iter(other.encoder.parameters())).add_(1)
    other.save(tmp_path / "other")
    assert vtp(artefact, "-n", 1, "-o", tmp_path / "a").exit_code == 0
    assert vtp(artefact, "-n", 1, "-o", tmp_path / "b", "--decoder", tmp_path / "tuned").exit_code == 0
    assert np.abs(pixels(tmp_path / "a")[0] - pixels(tmp_path / "b")[0]).max() > 1
    result = vtp(artefact, "-n", 1, "-o", tmp_path / "c", "--decoder", tmp_path / "other")
    assert result.exit_code == 5 and "belongs to the tokenizer tiny" in result.output
    assert not (tmp_path / "c").exists()


def test_a_generator_is_not_saved_with_another_tokenizer(artefact: Path, tmp_path: Path) -> None:
    for storage in ("full", "bfloat16"):
        model = load(artefact, plugins=PLUGINS)
        assert model.config is not None and model.decoder is not None
        model.config = model.config.model_copy(update={"storage": storage})
        next(iter(model.decoder.parameters())).mul_(2)
        again = load(model.save(tmp_path / storage), plugins=PLUGINS)
        again.save(tmp_path / f"{storage}-again")
        next(iter(again.encoder.parameters())).add_(0.5)
        with pytest.raises(CheckpointError, match=r"the generator generation belongs to the tokenizer tiny"):
            again.save(tmp_path / "other")
        assert not (tmp_path / "other").exists()


def test_a_set_of_the_same_tokenizer_is_replaced_as_a_whole(artefact: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_bytes(b"mine")
    for seed, number in ((0, 4), (3, 2)):
        assert vtp(artefact, "-n", number, "--seed", seed, "-o", tmp_path).exit_code == 0
    found = read_record(tmp_path)
    assert found is not None and (found.seed, found.images, len(found.files)) == (3, 2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*found.files, "notes.png", "samples.json"]


def test_a_set_of_another_tokenizer_is_refused_by_name(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made()
    next(iter(other.encoder.parameters())).add_(1)
    other.save(tmp_path / "other")
    assert vtp(tmp_path / "other", "-n", 2, "-o", tmp_path / "a").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    monkeypatch.setattr("vtp_plugins.generate.samples.make_samples", lambda *_: pytest.fail("generated"))
    result = vtp(artefact, "-n", 2, "-o", tmp_path / "a")
    assert result.exit_code == 5 and len(result.output.splitlines()) == 1
    assert re.search(
        r"set of samples in .*a belongs to the tokenizer tiny \([0-9a-f-]+\); tiny", result.output
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_what_an_interruption_leaves_is_no_set(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vtp(artefact, "-n", 3, "-o", tmp_path).exit_code == 0
    save, saved = Image.Image.save, []

    def stops(image: Image.Image, path: Path) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", stops)
    assert vtp(artefact, "-n", 3, "--seed", 1, "-o", tmp_path).exit_code == 130
    assert read_record(tmp_path) is None and [path.name for path in tmp_path.iterdir()] == ["000000.png"]
    monkeypatch.undo()
    result = vtp(artefact, "-n", 2, "-o", tmp_path)
    assert result.exit_code == 2 and "has 000000.png and maybe more that belong to no" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["000000.png"]


def test_an_earlier_set_stays_until_there_are_samples(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vtp(artefact, "-n", 2, "-o", tmp_path).exit_code == 0
    result = vtp(artefact, "-n", 2, "-o", tmp_path, "--guidance", "1e38")
    assert result.exit_code == 4 and "not finite" in result.output
    found = read_record(tmp_path)
    assert found is not None and all((tmp_path / name).exists() for name in found.files)


def test_classes_that_share_a_name_are_refused_by_name() -> None:
    names = ["crane", "dog", "Crane", "0"]
    for word, numbers in (("crane", "0 and 2"), ("0", "0 and 3")):
        with pytest.raises(UsageError, match=f"may be one of classes {numbers}; give their numbers"):
            read_classes(word, names, 4)
    assert read_classes("dog, 2", names, 4) == [1, 2]
    with pytest.raises(UsageError, match="no class"):
        read_classes("9" * 5000, names, 4)


def test_a_record_that_is_something_else_is_refused_and_removes_nothing(
    artefact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    assert vtp(artefact, "-n", 1, "-o", folder).exit_code == 0
    (tmp_path / "x.png").write_bytes(b"mine")
    path = folder / "samples.json"
    record = json.loads(path.read_text())
    for change in ({"images": -1}, {"other": 1}, {"files": None}, {"files": ["../x.png"]}):
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(DataError, match=r"samples\.json: no record of samples"):
            read_record(folder)
    result = vtp(artefact, "-n", 1, "-o", folder)
    assert result.exit_code == 3 and len(result.output.splitlines()) == 1
    assert (tmp_path / "x.png").exists() and (folder / "000000.png").exists()


def test_refusals_are_one_line(artefact: Path, tmp_path: Path) -> None:
    made(generator=False).save(tmp_path / "none")
    for arguments, message in (
        ([tmp_path / "none"], "has no generator; train one on its latents"),
        ([artefact, "--classes", "cow"], "no class 'cow' of 0 to 2; there are: a/../b, cat, dog"),
        ([artefact, "--classes", "3"], "no class '3' of 0 to 2"),
        ([artefact, "--sampler", "magic"], "generate: sampler: Input should be 'euler'"),
        ([artefact, "--sampler", "dopri5"], "steps has no effect with sampler dopri5; leave it out"),
        ([artefact, "-s", "speed=3"], "no setting 'speed'; there are sampler, steps"),
        ([artefact, "-s", "speed"], "--set speed: give KEY=VALUE"),
        ([artefact, "--grid", "grid.txt"], "the name must end in .png, .jpg or .webp"),
        ([artefact, "-s", "steps=4"], "--steps and --set steps both set it; give one of them"),
        (
            [artefact, "-n", "200", "--classes", "1", "--grid", tmp_path / "wide.webp"],
            ".webp holds 16383 a side; take .png",
        ),
        ([tmp_path / "nowhere"], "no tokenizer here"),
    ):
        result = vtp(*arguments)
        assert result.exit_code in (2, 5) and message in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1
