"""The source of cached latents: what it delivers, when it encodes, and which files it refuses."""

from __future__ import annotations

import functools
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from vtp_core import Tokenizer, load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.fingerprint import TokenizerName, name_of
from vtp_core.artefact.latent_manifest import MANIFEST, LatentManifest, read_manifest
from vtp_core.artefact.latent_shards import ShardContent, write_shard
from vtp_core.cli.main import main
from vtp_core.data.loading.loader import Loader
from vtp_core.data.opening import Sources, open_source
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import CheckpointError, DataError, UsageError
from vtp_core.evaluation.progress import silent
from vtp_core.latents import encoding
from vtp_core.latents.folder import images_digest
from vtp_core.latents.stored import StoredLatents
from vtp_core.plugins import load_plugins
from vtp_core.recipe.reading.component import read_component
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.testing import check_source
from vtp_core.view import ViewNeed
from vtp_plugins.latents.config import LatentsConfig
from vtp_plugins.latents.source import Latents

PLUGINS = load_plugins(only=["image_folder", "image_list", "latents", "vit", "linear"])
CPU = torch.device("cpu")
LATENT = frozenset({"latent"})
IMAGES = 13


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two classes and a broken one, and two tokenizers of one architecture."""
    root = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for index in range(IMAGES - 1):
        folder = root / "photos" / ("red", "blue")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    (root / "photos" / "red" / "broken.png").write_bytes(b"no image")
    for seed, name in enumerate(("one", "other")):
        config = ArtefactConfig(
            vtp_version="0",
            recipe=name,
            encoder={"use": "vit", "width": 16, "depth": 1, "heads": 1, "patch": 8},
            bottleneck={"use": "linear", "channels": 6},
            image_size=16,
        )
        model = assemble(config, PLUGINS)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save(root / name)
    return root


def table(home: Path, cache: Path, **changes: object) -> LatentsConfig:
    keys = {
        "use": "latents",
        "tokenizer": str(home / "one"),
        "source": {"use": "image_folder", "path": str(home / "photos")},
        "cache": str(cache),
        "shard_samples": 4,
        "rows": 3,
    }
    found = read_component("source", {**keys, **changes}, PLUGINS)
    assert isinstance(found, LatentsConfig)
    return found


def opened(config: LatentsConfig, *, prepare: bool = True) -> Latents:
    source = open_source(config, DecodeLimits(), PLUGINS)
    assert isinstance(source, Latents)
    if prepare:
        source.prepare(PLUGINS, CPU, silent)
    return source


@pytest.fixture(scope="module")
def cached(home: Path) -> Latents:
    return opened(table(home, home / "cache"))


def place(source: Latents, name: str) -> int:
    keys = [source.images.read(i, frozenset()).key for i in range(len(source))]
    return next(i for i, key in enumerate(keys) if name in key)


def folder_of(source: Latents) -> Path:
    assert source._stored is not None
    return source._stored.path


def test_it_delivers_latents_of_both_flips_with_labels(home: Path, cached: Latents) -> None:
    model = load(home / "one", plugins=PLUGINS)
    index = place(cached, "07")
    sample = cached.read(index, frozenset({"latent", "label", "image"}))
    assert sample.image is not None and sample.label == list(cached.classes).index("blue")
    pixels = model.preprocess(sample.image)
    for version, shown in ((0, pixels), (1, pixels.flip(-1))):
        with torch.no_grad():
            expected = model.encode(shown).latent[0]
        found = cached.read_version(index, version, LATENT).latent
        assert found is not None
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)
    assert cached.made_by == name_of(model) and cached.fields == {"image", "label", "latent"}


def test_it_conforms(cached: Latents) -> None:
    check_source(cached)
    check_source(StoredLatents(folder_of(cached), flips=True))


def test_a_sample_that_can_not_be_read_is_a_bad_one(cached: Latents) -> None:
    with pytest.raises(BadSample, match=r"broken.png: not encoded"):
        cached.read(place(cached, "broken"), LATENT)
    assert cached.problems() == {"not an image": ["red/broken.png"]}
    assert len(cached) == IMAGES


def test_any_number_of_bad_samples_is_kept(tmp_path: Path) -> None:
    """The manifest counts them and names a few; the files name all."""
    keys = [f"a folder with a long name/image {n:08d}.png" for n in range(30_000)]
    tokenizer = TokenizerName(name="t", fingerprint="0" * 16)
    content = ShardContent(
        latents=np.ones((1, 6, 2, 2), "f4"), keys=["good"], index=[0], left_out={"not an image": keys},
        tokenizer=tokenizer,
    )  # fmt: skip
    write_shard(tmp_path / "latents-00000.safetensors", content)
    new = LatentManifest(
        vtp_version="0", tokenizer=tokenizer, source="s", samples=30_001, image_size=16, flips=False,
        shard_samples=40_000,
    )  # fmt: skip
    encoding._completed(tmp_path, new).write(tmp_path)
    assert (tmp_path / MANIFEST).stat().st_size < 100_000
    found = read_manifest(tmp_path)
    assert found is not None and found.left_out_counts == {"not an image": 30_000}
    assert found.left_out["not an image"] == tuple(keys[:100])
    assert StoredLatents(tmp_path, flips=False).problems() == {"not an image": keys}
    # One of before has all names and no counts.
    manifest(tmp_path, left_out={"not an image": keys}, left_out_counts={})
    assert (tmp_path / MANIFEST).stat().st_size > 1_000_000
    assert len(StoredLatents(tmp_path, flips=False).problems()["not an image"]) == 30_000


def test_files_have_256_mb_at_most_by_default(home: Path, tmp_path: Path) -> None:
    wide = assemble(
        ArtefactConfig(
            vtp_version="0", encoder={"use": "vit", "width": 16, "depth": 1, "heads": 1, "patch": 16},
            bottleneck={"use": "linear", "channels": 768}, image_size=256,
        ),
        PLUGINS,
    )  # fmt: skip
    size = encoding.default_shard_samples(wide, 256, flips=True)
    assert size == 256_000_000 // (2 * 768 * 16 * 16 * 4) == 162
    assert encoding.default_shard_samples(wide, 256, flips=False) == 325
    small = load(home / "one", plugins=PLUGINS)
    assert encoding.default_shard_samples(small, 16, flips=True) == 4096
    source = opened(table(home, tmp_path, shard_samples=None))
    found = read_manifest(folder_of(source))
    assert found is not None and found.shard_samples == 4096
    # The folder of a cache that was made with the former default of 4096.
    assert folder_of(opened(table(home, tmp_path, shard_samples=4096))) == folder_of(source)


def test_a_source_without_a_readable_image_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    photos = {"use": "image_folder", "path": str(tmp_path / "photos")}
    with pytest.raises(DataError, match="no image can be read"):
        opened(table(home, tmp_path / "cache", source=photos))


def test_statistics_are_those_of_all_positions(cached: Latents) -> None:
    files = [load_file(path) for path in sorted(folder_of(cached).glob("*.safetensors"))]
    both = [file[name].astype(np.float64) for file in files for name in ("latents", "latents_flip")]
    values = np.concatenate(both).transpose(1, 0, 2, 3).reshape(6, -1)
    mean, deviation, how = cached.statistics()
    np.testing.assert_allclose(mean, values.mean(1), atol=1e-12)
    np.testing.assert_allclose(deviation, values.std(1), atol=1e-12)
    assert "12 latents" in how


def test_files_have_the_layout_of_lightning_dit(cached: Latents) -> None:
    """What its data set reads: `latents` and `latents_flip` of one shape, as many int64 `labels`."""
    files = sorted(folder_of(cached).glob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        tensors = load_file(path)
        count = len(tensors["labels"])
        assert tensors["latents"].shape == tensors["latents_flip"].shape == (count, 6, 2, 2)
        assert tensors["latents"].dtype == np.float32 and tensors["labels"].dtype == np.int64


def test_the_next_run_encodes_nothing(home: Path, cached: Latents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_core.artefact.loading.load", lambda *_, **__: pytest.fail("loaded again"))
    again = opened(table(home, home / "cache"))
    for index in (0, 5):
        found, before = again.read(index, LATENT).latent, cached.read(index, LATENT).latent
        assert np.array_equal(found, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"tokenizer": "other"}, {"size": 32}, {"flips": False}, {"source": "red"}]
)
def test_other_latents_are_in_another_folder(
    home: Path, cached: Latents, change: dict[str, object], tmp_path: Path
) -> None:
    if "tokenizer" in change:
        change = {"tokenizer": str(home / "other")}
    if "source" in change:
        change = {"source": {"use": "image_folder", "path": str(home / "photos" / "blue")}}
    found = opened(table(home, tmp_path, **change))
    assert folder_of(found).name.rpartition("-")[2] != folder_of(cached).name.rpartition("-")[2]


class Named:
    """A source of keys and sizes alone."""

    def __init__(self, keys: list[str], sizes: list[int | None]) -> None:
        self.keys, self.sizes = keys, sizes

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        assert not fields, "no image is read"
        return Sample(key=self.keys[index])

    def image_bytes(self, index: int) -> int | None:
        return self.sizes[index]


def test_any_image_that_is_another_one_makes_another_folder() -> None:
    keys, sizes = [f"{n}.png" for n in range(100)], [*range(99), None]
    found = {images_digest(Named(keys, sizes))}  # type: ignore[arg-type]
    for index in (0, 1, 57, 98, 99):
        for part, other in (("keys", "x.png"), ("sizes", 1000)):
            images = Named(list(keys), list(sizes))
            getattr(images, part)[index] = other
            found.add(images_digest(images))  # type: ignore[arg-type]
    swapped = [keys[1], keys[0], *keys[2:]], [sizes[1], sizes[0], *sizes[2:]]
    found.add(images_digest(Named(*swapped)))  # type: ignore[arg-type]
    assert len(found) == 12
    with pytest.raises(DataError, match="no sample to encode"):
        images_digest(Named([], []))  # type: ignore[arg-type]


def test_an_image_that_is_replaced_is_encoded_again(home: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(home / "photos" / "blue", photos)
    table_of = functools.partial(table, home, tmp_path, source={"use": "image_folder", "path": str(photos)})
    before = opened(table_of())
    Image.new("RGB", (50, 40), (9, 200, 3)).save(sorted(photos.glob("*.png"))[2])
    after = opened(table_of())
    assert folder_of(after) != folder_of(before)
    same = [np.array_equal(*(each.read(i, LATENT).latent for each in (before, after))) for i in range(6)]  # type: ignore[arg-type]
    assert same == [True, True, False, True, True, True]


def test_labels_and_captions_are_those_of_the_source_now(home: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (home / "photos" / "red").glob("[0-9]*.png"))
    found = []
    for labels in ("010101", "110011"):
        rows = [f"{name},{label},text {label}" for name, label in zip(names, labels, strict=True)]
        (tmp_path / "list.csv").write_text("\n".join(["image,label,text", *rows]))
        listed = {
            "use": "image_list",
            "path": str(tmp_path / "list.csv"),
            "root": str(home / "photos" / "red"),
        }
        source = opened(table(home, tmp_path, source=listed))
        fields = frozenset({"latent", "label", "text"})
        samples = [source.read(index, fields) for index in range(6)]
        assert [(sample.label, sample.text) for sample in samples] == [(int(x), f"text {x}") for x in labels]
        found.append((folder_of(source), np.stack([sample.latent for sample in samples])))  # type: ignore[arg-type]
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


def test_an_interrupted_encoding_goes_on(
    home: Path, cached: Latents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = encoding.write_shard, []

    def stops(path: Path, content: ShardContent) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(encoding, "write_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        opened(table(home, tmp_path))
    with pytest.raises(DataError, match="not all samples are encoded yet"):
        StoredLatents(written[0].parent, flips=True)
    times = [path.stat().st_mtime_ns for path in written]
    monkeypatch.setattr(encoding, "write_shard", write)
    done = opened(table(home, tmp_path))
    assert [path.stat().st_mtime_ns for path in written] == times
    for path in sorted(folder_of(cached).glob("*.safetensors")):
        own, other = load_file(folder_of(done) / path.name), load_file(path)
        assert own.keys() == other.keys()
        assert all(np.array_equal(own[name], other[name]) for name in own)
    assert not list(folder_of(done).glob(".*"))


def test_processes_share_the_work(home: Path, cached: Latents, tmp_path: Path) -> None:
    """Locks of files are held by descriptor, so that threads stand for processes."""
    sources = [opened(table(home, tmp_path), prepare=False) for _ in range(2)]
    threads = [threading.Thread(target=each.prepare, args=(PLUGINS, CPU, silent)) for each in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(IMAGES):
        if index != place(cached, "broken"):
            samples = [each.read(index, LATENT).latent for each in (*sources, cached)]
            assert np.array_equal(samples[0], samples[1]) and np.array_equal(samples[0], samples[2])  # type: ignore[arg-type]


def loaded(source: Latents, **options: int) -> list[tuple[tuple[str, ...], torch.Tensor]]:
    views = {"image": ViewConfig(rows=6, size=16, augment="center")}
    needs = {"image": ViewNeed(latent=True, label=True)}
    settings: dict[str, object] = {"seed": 3, "steps": 12, "patch": 8, "max_bad_fraction": 1.0} | options
    loader = Loader(views, needs, {"default": source}, **settings)  # type: ignore[arg-type]
    return [(b["image"].keys, b["image"].latent) for _, b in loader]  # type: ignore[misc]


def test_one_of_both_flips_is_read_by_epoch_and_sample(cached: Latents) -> None:
    steps = loaded(cached)
    seen: dict[str, list[int]] = {}
    keys = {cached.images.read(i, frozenset()).key: i for i in range(IMAGES)}
    for names, latents in steps:
        for name, latent in zip(names, latents, strict=True):
            versions = [cached.read_version(keys[name], v, LATENT).latent for v in (0, 1)]
            seen.setdefault(name, []).append(
                next(v for v in (0, 1) if np.array_equal(versions[v], latent.numpy()))  # type: ignore[arg-type]
            )
    drawn = [version for versions in seen.values() for version in versions]
    assert 0.3 < np.mean(drawn) < 0.7 and any(len(set(versions)) == 2 for versions in seen.values())
    for (names, latents), (again, same) in zip(steps[7:], loaded(cached, start_step=7), strict=True):
        assert names == again and torch.equal(latents, same)
    parts = [loaded(cached, rank=rank, world_size=2) for rank in range(2)]
    for step, (names, latents) in enumerate(steps):
        for rank in range(2):
            assert names[rank::2] == parts[rank][step][0]
            assert torch.equal(latents[rank::2], parts[rank][step][1])


def test_a_part_of_it_has_both_flips_too(home: Path, cached: Latents) -> None:
    part = Sources(PLUGINS).open(table(home, home / "cache", part=[0.0, 0.6]))
    part.source.prepare(PLUGINS, CPU, silent)  # type: ignore[attr-defined]
    assert 0 < len(part) < IMAGES and part.versions == 2  # type: ignore[attr-defined]
    key = part.read(0, frozenset()).key
    index = place(cached, key)
    found = part.read_version(0, 1, LATENT).latent  # type: ignore[attr-defined]
    assert np.array_equal(found, cached.read_version(index, 1, LATENT).latent)  # type: ignore[arg-type]


def written(path: Path, count: int = 3, *, metadata: dict[str, str] | None = None, **more: object) -> Path:
    latents = np.arange(count * 24, dtype=np.float32).reshape(count, 6, 2, 2)
    save_file({"latents": latents, **more}, path, metadata)  # type: ignore[dict-item]
    return path


def test_a_folder_of_lightning_dit_is_read(tmp_path: Path) -> None:
    for number in range(2):
        latents = np.full((3, 6, 2, 2), number, dtype=np.float32)
        labels = np.arange(3) + 10 * number
        file = tmp_path / f"latents_rank00_shard00{number}.safetensors"
        save_file({"latents": latents, "latents_flip": -latents, "labels": labels}, file)
    source = open_source(table_of(tmp_path), DecodeLimits(), PLUGINS)
    assert isinstance(source, StoredLatents)
    assert len(source) == 6 and source.fields == {"latent", "label"} and source.made_by is None
    sample = source.read_version(4, 1, source.fields)
    assert sample.label == 11 and sample.latent is not None and (sample.latent == -1).all()
    assert source.statistics()[0] == pytest.approx([0.0] * 6)
    check_source(source)


def table_of(path: Path) -> LatentsConfig:
    found = read_component("source", {"use": "latents", "path": str(path)}, PLUGINS)
    assert isinstance(found, LatentsConfig)
    return found


def test_a_file_of_vtp_encode_is_read(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    command = ["encode", str(home / "one"), str(home / "photos" / "blue"), "-o", str(file), "--crop"]
    assert CliRunner().invoke(main, command).exit_code == 0
    source = StoredLatents(file, flips=True)
    assert source.versions == 1 and source.read(0, LATENT).key.endswith("01.png")
    assert source.made_by == name_of(load(home / "one", plugins=PLUGINS))
    assert LatentsConfig.recognise(str(file)) == {"path": str(file)}


def manifest(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | changes))


def _nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nothing, r"no \.safetensors file in it"),
        (lambda f: (f / "latents-00001.safetensors").unlink(), "latents-00001.safetensors of its manifest"),
        (lambda f: (f / "latents-00001.safetensors").write_bytes(b"x" * 50), "not a file of latents"),
        (lambda f: written(f / "latents-00002.safetensors"), "keep one tokenizer's latents in a folder"),
        (lambda f: manifest(f, complete=False), "not all samples are encoded yet"),
        (lambda f: manifest(f, format_version=2), "no manifest of latents that this version reads"),
        (lambda f: manifest(f, latents_mean=["NaN"]), "no manifest of latents that this version reads"),
        (lambda f: manifest(f, latents_std=[1.0] * 5 + [-1.0]), "should be greater than 0"),
        (lambda f: manifest(f, latents_std=[1.0] * 5 + [0.0]), "should be greater than 0"),
        (
            lambda f: manifest(f, latents_mean=[0.0], latents_std=[1.0]),
            "latents_mean has 1 values, .* 6 channels",
        ),
        (lambda f: manifest(f, samples=10**15, shard_samples=1), "1000000000000000 files"),
        (lambda f: (f / MANIFEST).write_text(" " * 64_000_001), r"larger than 64000000 bytes\)"),
        (lambda f: (f / MANIFEST).write_text("[" * 10_000), r"not JSON"),
        (lambda f: (f / MANIFEST).write_text("[]"), r"no manifest of latents that this version reads"),
    ],
)
def test_folders_that_are_refused(
    cached: Latents, damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    for path in folder_of(cached).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        StoredLatents(tmp_path, flips=True)


ONES = np.ones(3, dtype=np.int64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: written(p, metadata={"normalized": "true"}), "its latents are normalised"),
        (lambda p: written(p, metadata={"images": "{}"}), "its metadata is damaged"),
        (lambda p: written(p, metadata={"tokenizer": "[" * 5000}), "its metadata is damaged"),
        (lambda p: save_file({"latents.2x2": np.ones((1, 1, 2, 2), "f4")}, p), "images of several shapes"),
        (lambda p: save_file({"other": ONES}, p), "expected `latents`"),
        (lambda p: save_file({"latents": np.ones((3, 6), "f4")}, p), "expected `latents`"),
        (lambda p: save_file({"latents": np.ones((3, 1, 2, 2), "i8")}, p), "`latents` is I64"),
        (lambda p: written(p, labels=ONES[:2]), "`labels` has 2 numbers for 3"),
        (lambda p: written(p, latents_flip=np.ones((3, 6, 2, 1), "f4")), "`latents_flip` is"),
        (lambda p: written(p, keys=np.zeros(4, "u1")), "`keys_end` does not tell 3 texts apart"),
        (lambda p: written(p, keys=np.zeros(2, "u1"), keys_end=ONES * 9), "`keys_end` does not fit"),
    ],
)
def test_files_that_are_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=f"a.safetensors: not a file of latents.*{re.escape(message)}"):
        StoredLatents(tmp_path / "a.safetensors", flips=True)


def test_a_latent_that_is_not_finite_is_a_bad_sample(tmp_path: Path) -> None:
    latents = np.zeros((2, 6, 2, 2), dtype=np.float32)
    latents[1, 3, 0, 1] = np.nan
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    source = StoredLatents(tmp_path / "a.safetensors", flips=True)
    source.read(0, LATENT)
    with pytest.raises(BadSample, match="latent is not finite"):
        source.read(1, LATENT)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "give tokenizer and source"),
        ({"tokenizer": "a"}, "give tokenizer and source"),
        ({"path": "a", "tokenizer": "b"}, "give either path, or tokenizer and source"),
        ({"tokenizer": "a", "source": {"use": "image_folder"}}, "source.path: missing"),
        ({"tokenizer": "a", "source": {"use": "nothing"}}, "source.use: "),
    ],
)
def test_tables_that_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_component("source", {"use": "latents", **keys}, PLUGINS)


def test_weights_that_are_not_finite_are_named(home: Path, tmp_path: Path) -> None:
    model: Tokenizer = load(home / "one", plugins=PLUGINS)
    next(iter(model.bottleneck.parameters())).fill_(float("nan"))
    model.save(tmp_path / "ruined")
    with pytest.raises(CheckpointError, match="not finite"):
        opened(table(home, tmp_path / "cache", tokenizer=str(tmp_path / "ruined")))
