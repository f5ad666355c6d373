"""``vtp init``: what it finds in a folder, what it chooses, and that its recipes are valid."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.core.data.making import DrawnSource, encoded, noise, write_tar
from vtp_core.cli.main import main
from vtp_core.data.opening import open_source
from vtp_core.data.part import place
from vtp_core.data.source import BadSample, Sample, Source
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.init.choice import choose
from vtp_plugins.init.machine import Machine
from vtp_plugins.init.recipe import recipe_text
from vtp_plugins.init.scan import Findings, held_out_fraction, scan

LAPTOP = Machine(cores=2, gpu_gib=0.0, bfloat16=False, perceptual=True)
SERVER = Machine(cores=32, gpu_gib=79.0, bfloat16=True, perceptual=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "this", classmethod(lambda cls: LAPTOP))


@cache
def installed() -> Plugins:
    return load_plugins()


def init(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", *arguments])


def fill(folder: str, names: Sequence[str], side: int = 24) -> None:
    for seed, name in enumerate(names):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(side, side, seed=seed)))


def recipe_of(path: str) -> tuple[Recipe, Source, Source]:
    """The recipe that `vtp init PATH` writes, and its opened sources."""
    result = init(path, "-o", "made.toml")
    assert result.exit_code == 0, result.output
    plugins = installed()
    recipe = load_recipe("made.toml", plugins=plugins)
    assert recipe.evaluate.source is not None
    train, held = (
        open_source(table, DecodeLimits(), plugins) for table in (recipe.data.source, recipe.evaluate.source)
    )
    return recipe, train, held


def keys(source: Source) -> set[str]:
    return {source.read(index, frozenset()).key for index in range(len(source))}


@pytest.mark.parametrize("name", ["notes", "runs/first/samples", "Cat"])
def test_folders_without_images_are_no_classes(name: str) -> None:
    fill("images", [f"{kind}/{index}.png" for kind in ("cat", "dog") for index in range(10)])
    Path("images", name).mkdir(parents=True)
    recipe, train, held = recipe_of("images")
    assert train.classes == held.classes == ("cat", "dog")
    assert recipe.data.source.model_dump()["classes"] == ("cat", "dog")
    told = json.loads(init("images", "-o", "again.toml", "--json").output)["not_read"]
    assert told == [f"1 of the folders, without images: {name.partition('/')[0]}"]


def test_a_plain_folder_with_broken_files() -> None:
    names = [f"{index:03}.png" for index in range(80)]
    fill("photos", names)
    for name in ("003.png", "004.png"):
        Path("photos", name).write_bytes(b"<html>")
    Path("photos/._001.png").write_bytes(b"x")
    Path("photos/a.heic").write_bytes(b"x")
    result = init("photos")
    assert result.exit_code == 0, result.output
    assert (
        "photos: a folder of images\n  images    80, 24x24 pixels\n  broken    2, left out" in result.stdout
    )
    assert "003.png: not an image (starts with b'<html>')" in result.stdout
    assert "1 files end in .heic" in result.stdout
    assert result.stdout.endswith("wrote photos.toml; next:\n  vtp run photos.toml\n")
    recipe, train, held = recipe_of("photos")
    assert keys(train) | keys(held) == set(names) - {"003.png", "004.png"}
    assert not keys(train) & keys(held) and len(held) >= 2
    assert set(recipe.objectives) == {"dino", "mim", "koleo", "l1", "perceptual"} - {"perceptual"}
    assert set(recipe.evaluators) == {"reconstruction"}
    assert (recipe.views["image"].size, recipe.encoder.patch) == (16, 2)  # type: ignore[attr-defined]


def test_findings_and_choices_as_json() -> None:
    fill("photos", [f"{index}.png" for index in range(9)])
    Path("photos/3.png").write_bytes(b"")
    result = init("photos", "-o", "made.toml", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["recipe"] == "made.toml" and facts["images"] == 9
    assert facts["broken"] == {"3.png": "empty image"} and "16 px" in facts["chosen"]["size"]


def test_nothing_is_overwritten() -> None:
    fill("photos", [f"{index}.png" for index in range(8)])
    Path("photos.toml").write_text("mine")
    result = init("photos")
    assert result.exit_code == 2 and "photos.toml exists" in result.stderr
    assert Path("photos.toml").read_text() == "mine"
    assert init("photos", "-o", "notes.txt").exit_code == 2


def test_folders_of_classes_with_captions_that_differ() -> None:
    names = [f"{kind}/{index}.png" for kind in ("cat", "dog") for index in range(50)]
    fill("pets", names, side=70)
    for number, name in enumerate(names):
        Path("pets", name).with_suffix(".txt").write_text(f"pet number {number}")
    recipe, train, _ = recipe_of("pets")
    assert train.classes == ("cat", "dog") and {"clip", "l1", "perceptual"} <= set(recipe.objectives)
    assert set(recipe.evaluators) == {"reconstruction", "knn", "linear_probe", "retrieval", "zero_shot"}
    assert (recipe.views["image"].size, recipe.encoder.patch) == (64, 8)  # type: ignore[attr-defined]


def test_equal_captions_are_not_learned() -> None:
    names = [f"{index}.png" for index in range(100)]
    fill("same", names)
    for name in names:
        Path("same", name).with_suffix(".txt").write_text("a photo")
    result = init("same")
    assert "only 1 of 100 differ" in result.stdout
    assert "[objectives.clip]" not in Path("same.toml").read_text()


def test_images_without_a_caption_are_left_out_where_nearly_all_have_one() -> None:
    names = [f"{index}.png" for index in range(100)]
    fill("most", names)
    for name in names[:-2]:
        Path("most", name).with_suffix(".txt").write_text(f"photo {name}")
    recipe, train, held = recipe_of("most")
    assert "clip" in recipe.objectives
    assert keys(train) | keys(held) == set(names[:-2])


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv", "odd.csv"])
def test_captions_in_a_table(name: str) -> None:
    names = [f"{index}.png" for index in range(90)]
    fill("listed/images", names)
    image, text = ("Bild", "Text dazu") if name == "odd.csv" else ("file_name", "caption")
    prefix = "images/" if name == "metadata.jsonl" else ""
    rows = [{image: prefix + file, text: f"this is {file}", "number": "7"} for file in names]
    with Path("listed", name).open("w", newline="") as file:
        if name.endswith(".csv"):
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    recipe, train, held = recipe_of("listed")
    assert recipe.data.source.use == "image_list" and "clip" in recipe.objectives
    assert len(train) + len(held) == 90
    sample = train.read(0, frozenset({"image", "text"}))
    assert sample.text == f"this is {sample.key.removeprefix('images/')}" and sample.image is not None


MEMBERS: Mapping[str, tuple[str, str, str]] = {
    "plain": ("{key}.png", "{key}.txt", "{key}.cls"),
    "dotted": ("{key}.photo.png", "{key}.prompt.txt", "{key}.cls"),
    "usual": ("{key}.image.png", "{key}.caption.txt", "{key}.cls"),
    "folders": ("{key}/image.png", "{key}/caption.txt", "{key}/label.txt"),
    "odd folders": ("{key}/Photo.png", "{key}/words.txt", "{key}/cls.txt"),
    "record": ("{key}.png", "{key}.json", "{key}.cls"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_tar_shards_with_any_member_names(kind: str) -> None:
    image, text, label = MEMBERS[kind]
    Path("shards").mkdir()
    for shard in range(2):
        members = []
        for index in range(shard * 50, shard * 50 + 50):
            caption = f"this is {index}"
            key = f"{index:04}"
            members += [
                (image.format(key=key), encoded(noise(seed=index))),
                (
                    text.format(key=key),
                    (json.dumps({"words": caption}) if kind == "record" else caption).encode(),
                ),
                (label.format(key=key), str(index % 2).encode()),
            ]
        write_tar(Path(f"shards/{shard}.tar"), members)
    recipe, train, held = recipe_of("shards")
    assert train.fields == {"image", "text", "label"} and len(train) + len(held) == 100
    assert "clip" in recipe.objectives and "knn" in recipe.evaluators
    sample = train.read(0, train.fields)
    assert sample.text == f"this is {int(sample.key)}" and sample.label == int(sample.key) % 2
    assert sample.image is not None and (sample.image == noise(seed=int(sample.key))).all()


@pytest.mark.parametrize("name", ["set [v2]", "set{1}", "set{a,b}"])
def test_folders_whose_names_are_patterns_and_linked_folders(name: str) -> None:
    fill(f"images {name}", [f"{index}.png" for index in range(12)])
    Path("linked").mkdir()
    Path("linked/all").symlink_to(Path(f"images {name}").resolve())
    Path(name).mkdir()
    write_tar(Path(name) / "0.tar", [(f"{index}.png", encoded(noise(seed=index))) for index in range(12)])
    for path in (name, f"images {name}", "linked"):
        Path("made.toml").unlink(missing_ok=True)
        _, train, held = recipe_of(path)
        assert len(train) + len(held) == 12


def test_archives_among_images_are_named_and_not_read() -> None:
    fill("mixed", [f"{index}.png" for index in range(9)])
    Path("mixed/backup").mkdir()
    write_tar(Path("mixed/backup/old.tar"), [("a.png", encoded(noise()))])
    result = init("mixed")
    assert result.exit_code == 0, result.output
    assert "mixed: a folder of images\n  images    9" in result.stdout
    assert "not read  1 tar files beside the images; vtp init 'mixed/*/*.tar' reads them" in result.stdout


def test_folders_called_train_and_val() -> None:
    for part, count in (("train", 40), ("val", 10)):
        fill(f"set/{part}", [f"{kind}/{index}.png" for kind in "ab" for index in range(count)])
    Path("set/val/a/3.png").write_bytes(b"")
    recipe, train, held = recipe_of("set")
    assert (len(train), len(held)) == (80, 19)
    assert recipe.data.source.part is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "none", "none: no such file or folder"),
        (["x/a.txt"], "x", "x: no image in it or below it"),
        (["x/a.heic"], "x", r"\(1 files end in .heic"),
        (["x/a.png"], "x", "0 images can be read, 8 are the least"),
        (["a.png"], "a.png", "give a folder of images, a table"),
        (["a.csv"], "a.csv", "none of its columns holds paths of images"),
        (["a.tar"], "a.tar", "a.tar: the file is empty"),
    ],
)
def test_what_it_can_not_use(files: Sequence[str], path: str, message: str) -> None:
    for name in files:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    result = init(path)
    assert result.exit_code == 3 and re.search(message, result.stderr), result.stderr
    assert "internal" not in result.stderr and not list(Path().glob("*.toml"))


def test_a_table_in_another_encoding_is_named() -> None:
    Path("a.csv").write_text("file_name,caption\nx.png,caf\xe9\n", encoding="latin-1")
    result = init("a.csv")
    assert result.exit_code == 3 and "the first problem: row 2: row is not UTF-8" in result.stderr


def found(**options: object) -> Findings:
    base = {"total": 1000, "read": 1000, "sides": [(640, 600)] * 1000, "held_out": 0.1}
    return Findings(**(base | options))  # type: ignore[arg-type]


def test_a_gpu_gets_larger_images_networks_and_batches() -> None:
    small, large = choose(found(), LAPTOP), choose(found(), SERVER)
    assert (small.size, small.patch, small.rows) == (64, 8, 32)
    assert (large.size, large.patch, large.rows) == (256, 16, 256)
    assert large.bfloat16 and not small.bfloat16
    rows = [choose(found(), replace(SERVER, gpu_gib=float(gib))).rows for gib in (4, 8, 16, 24, 48, 80)]
    assert rows == [16, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("machine", [LAPTOP, SERVER])
@pytest.mark.parametrize("count", [8, 60, 500, 2_000_000])
@pytest.mark.parametrize(("side", "texts"), [(8, 0), (16, 4000), (100, 0), (4000, 4000)])
def test_every_choice_is_a_valid_recipe(machine: Machine, count: int, side: int, texts: int) -> None:
    captions = {str(index).encode(): 1 for index in range(min(texts, count))}
    choice = choose(
        found(
            total=count,
            read=min(count, 3000),
            sides=[(side, side if texts else 3 * side // 2)] * min(count, 3000),
            captions=Counter(captions),
            labels=Counter({0: count // 2, 1: count // 2}),
            classes=("a", "b"),
            bad={"x": "no"} if count == 500 else {},
        ),
        machine,
    )
    table = {
        "use": "image_folder",
        "path": 'a "b" # c',
        "exclude": [f"bad file {index}" for index in range(9)],
    }
    Path("made.toml").write_text(
        recipe_text("made", choice, table | {"part": [0, 0.9]}, table | {"part": [0.9, 1]})
    )
    recipe = load_recipe("made.toml", plugins=installed())
    assert recipe.views["image"].rows <= max(1, round(count * 0.9))
    assert recipe.data.source.path == table["path"]  # type: ignore[attr-defined]
    assert ("clip" in recipe.objectives) == (texts > 0 and round(count * 0.9) >= 64)


def test_images_of_equal_proportions_are_not_made_square() -> None:
    wide = [(6000, 4000)] * 95 + [(4000, 6000)] * 5
    assert choose(found(sides=wide), LAPTOP).size == (64, 96)
    assert choose(found(sides=[(300, 400)] * 10), LAPTOP).size == (80, 64)
    assert choose(found(sides=wide[:80] + [(4000, 6000)] * 20), LAPTOP).size == 64
    assert choose(found(sides=[(1000, 100)] * 10), LAPTOP).size == 64
    assert choose(found(sides=[(110, 100)] * 10), LAPTOP).size == 64


def test_slow_images_make_smaller_steps() -> None:
    choice = choose(found(seconds=0.1), LAPTOP)
    assert choice.rows == 8 and choice.workers == 2
    assert "smaller copies would allow 32" in dict(choice.reasons)["rows"]


def test_labels_and_perceptual_networks_that_are_missing_are_said() -> None:
    alone = choose(found(labels=Counter({0: 1000})), Machine(2, 0.0, False, False))
    assert not alone.probes and not alone.perceptual
    assert "one class" in dict(alone.reasons)["labels"]
    assert "vtp-core[offline]" in dict(alone.reasons)["perceptual"]
    many = choose(found(labels=Counter({label: 1 for label in range(1000)})), LAPTOP)
    assert not many.probes


def test_few_samples_hold_out_more_of_them() -> None:
    assert held_out_fraction([index / 100 for index in range(100)]) == 0.1
    assert held_out_fraction([0.1, 0.6, 0.75, 0.2]) == 0.5
    assert held_out_fraction([0.1, 0.1, 0.1]) == 0.5
    assert held_out_fraction([0.5] * 1_000_000) == 0.001


class BrokenSource(DrawnSource):
    """Keys without images."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if fields:
            raise BadSample(f"s{index}", "broken")
        return Sample(key=f"s{index}")


def test_broken_files_do_not_count_as_held_out_ones() -> None:
    last = [index for index in range(200) if place(f"s{index}") >= 0.9]
    findings = scan(DrawnSource(count=200, side=8), hold_out=True)
    assert findings.held_out == 0.1 and len(last) > 2
    broken = Partly(count=200, side=8, bad={index: "broken" for index in last})
    assert scan(broken, hold_out=True).held_out == 0.2


class Partly(DrawnSource):
    """Names its samples even where they are broken."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        return super().read(index, fields) if fields else Sample(key=f"s{index}")


def test_a_large_source_is_read_in_part_and_the_held_out_samples_all() -> None:
    findings = scan(BrokenSource(count=12_000), hold_out=True)
    assert not findings.whole and findings.held_out == 0.08
    held = {f"s{index}" for index in range(12_000) if place(f"s{index}") >= 0.92}
    assert held <= set(findings.bad) and len(findings.bad) < 2100
