"""`vtp encode --source` and `vtp decode` of its folder: contents, layouts, resuming, ranks, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.fingerprint import name_of
from vtp_core.artefact.latent_manifest import MANIFEST, read_manifest
from vtp_core.artefact.latent_shards import ShardContent
from vtp_core.cli.main import main
from vtp_core.data.opening import open_source
from vtp_core.data.source import Sample
from vtp_core.errors import DataError, UsageError
from vtp_core.latents import encoding
from vtp_core.latents.folder import new_manifest
from vtp_core.latents.stored import StoredLatents
from vtp_core.plugins import load_plugins
from vtp_core.recipe.reading.component import read_component
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.testing import check_source

PLUGINS = load_plugins()
BOTTLENECKS = {
    "linear": {"use": "linear", "channels": 6},
    "kl": {"use": "kl", "channels": 6},
    "vq": {"use": "vq", "channels": 6, "quantizer": {"kind": "ema", "codes": 16}},
}
PHOTOS = 10
FILES = 3  # of four samples each: eleven files, one of them broken


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos in two classes and a broken one, and a tokenizer of each kind of latent."""
    root = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for index in range(PHOTOS):
        folder = root / "photos" / ("red", "blue")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    (root / "photos" / "red" / "broken.png").write_bytes(b"no image")
    for seed, (name, bottleneck) in enumerate(BOTTLENECKS.items()):
        vit = {"use": "vit", "width": 16, "depth": 1, "heads": 1}
        config = ArtefactConfig(
            vtp_version="0", recipe=name, encoder={**vit, "patch": 8}, bottleneck=bottleneck,
            decoder=vit, image_size=16,
        )  # fmt: skip
        model = assemble(config, PLUGINS)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save(root / name)
    return root


def vtp(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def command(home: Path, folder: Path, *more: object, tokenizer: str = "linear") -> list[object]:
    source = home / "photos"
    options = ("--source", source, "-o", folder, "--rows", 3, "--shard-samples", 4)
    return ["encode", home / tokenizer, *options, *more]


def encode(home: Path, folder: Path, *more: object, tokenizer: str = "linear") -> Path:
    result = vtp(*command(home, folder, *more, tokenizer=tokenizer))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def encoded(home: Path) -> Path:
    return encode(home, home / "encoded")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def tensors(folder: Path) -> dict[str, np.ndarray]:
    parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_folder_has_latents_of_both_flips_labels_statistics_and_its_origin(
    home: Path, encoded: Path
) -> None:
    model = load(home / "linear", plugins=PLUGINS)
    found = tensors(encoded)
    source = StoredLatents(encoded, flips=True)
    assert len(source) == PHOTOS and source.made_by == name_of(model) and source.classes == ("blue", "red")
    for row in range(PHOTOS):
        key = source.read(row, frozenset()).key
        pixels = model.preprocess(Image.open(home / "photos" / key))
        with torch.no_grad():
            both = model.encode(pixels).latent[0], model.encode(pixels.flip(-1)).latent[0]
        np.testing.assert_allclose(found["latents"][row], both[0], atol=1e-5)
        np.testing.assert_allclose(found["latents_flip"][row], both[1], atol=1e-5)
        assert source.classes[int(found["labels"][row])] == key.split("/")[0]
    values = np.concatenate([found["latents"], found["latents_flip"]]).astype(np.float64)
    manifest = read_manifest(encoded)
    assert manifest is not None and manifest.complete and manifest.encoded == PHOTOS
    assert manifest.left_out == {"not an image": ("red/broken.png",)}
    np.testing.assert_allclose(manifest.latents_mean, values.mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(manifest.latents_std, values.std((0, 2, 3)), atol=1e-12)
    statistics = torch.load(encoded / "latents_stats.pt", weights_only=True)
    assert statistics["mean"].shape == statistics["std"].shape == (1, 6, 1, 1)
    torch.testing.assert_close(statistics["std"].flatten(), torch.tensor(manifest.latents_std))
    assert sorted(contents(encoded)) == [
        *(f"latents-0000{number}.safetensors" for number in range(FILES)), "latents_stats.pt", MANIFEST
    ]  # fmt: skip


def test_called_again_it_encodes_nothing(home: Path, encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(encoded)
    monkeypatch.setattr(encoding, "_encode_shard", lambda *_, **__: pytest.fail("encoded again"))
    encode(home, encoded)
    assert contents(encoded) == before


def test_a_stopped_encoding_goes_on_bit_for_bit(
    home: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = encoding.write_shard, []

    def stops(path: Path, content: ShardContent) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "write_shard", stops)
        assert vtp(*command(home, tmp_path / "z")).exit_code == 130
    assert vtp("decode", home / "linear", tmp_path / "z", "-o", tmp_path / "d").exit_code == 3
    (tmp_path / "z" / f".latents-00001.safetensors.{'0' * 8}.tmp").write_bytes(b"half")
    os.utime(tmp_path / "z" / f".latents-00001.safetensors.{'0' * 8}.tmp", (1, 1))
    assert contents(encode(home, tmp_path / "z")) == contents(encoded)


@pytest.mark.slow
def test_workers_and_one_process_write_the_same(home: Path, encoded: Path, tmp_path: Path) -> None:
    assert contents(encode(home, tmp_path / "z", "--workers", 1)) == contents(encoded)


def test_a_killed_worker_is_one_line_and_leaves_no_handler(
    home: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    with monkeypatch.context() as killing:
        killing.setattr(encoding, "center_crop", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        result = vtp(*command(home, tmp_path / "z", "--workers", 1))
    assert result.exit_code == DataError.exit_code, result.output
    assert "DataLoader worker (pid" in result.output and "lower --workers" in result.output
    assert signal.getsignal(signal.SIGCHLD) is before
    assert contents(encode(home, tmp_path / "z")) == contents(encoded)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset closes no file
@pytest.mark.parametrize("layout", ["safetensors", "tar"])
def test_log_variances_and_codes_are_kept(home: Path, tmp_path: Path, layout: str) -> None:
    for name, part in (("kl", "logvar"), ("vq", "indices")):
        folder = encode(home, tmp_path / name, "--layout", layout, tokenizer=name)
        model = load(home / name, plugins=PLUGINS)
        source = StoredLatents(folder, flips=True)
        sample = source.read(3, frozenset({"latent"}))
        pixels = model.preprocess(Image.open(home / "photos" / sample.key))
        with torch.no_grad():
            result = model.encode(pixels)
            flipped = model.encode(pixels.flip(-1))
        expected = {"logvar": result.latent_dist.logvar, "indices": result.indices}[part]
        mirror = {"logvar": flipped.latent_dist.logvar, "indices": flipped.indices}[part]
        np.testing.assert_allclose(sample.latent, result.latent[0], atol=1e-5)
        np.testing.assert_allclose(
            source.read_version(3, 1, source.fields).latent, flipped.latent[0], atol=1e-5
        )
        if layout == "safetensors":
            found = tensors(folder)
            np.testing.assert_allclose(found[part][3], expected[0], atol=1e-5)
            np.testing.assert_allclose(found[f"{part}_flip"][3], mirror[0], atol=1e-5)
        else:
            import webdataset

            samples = list(
                webdataset.WebDataset(str(folder / "latents-00000.tar"), shardshuffle=False).decode()
            )
            assert samples[3]["json"]["key"] == sample.key
            np.testing.assert_allclose(samples[3][f"{part}.npy"], expected[0], atol=1e-5)
            np.testing.assert_allclose(samples[3][f"{part}_flip.npy"], mirror[0], atol=1e-5)


def test_tar_shards_hold_the_same_and_both_sources_read_them(
    home: Path, encoded: Path, tmp_path: Path
) -> None:
    folder = encode(home, tmp_path / "tars", "--layout", "tar")
    assert contents(encode(home, tmp_path / "again", "--layout", "tar")) == contents(folder)
    plain = StoredLatents(encoded, flips=True)
    tables = ({"use": "latents", "path": str(folder)}, {"use": "webdataset", "urls": str(folder / "*.tar")})
    for values in tables:
        source = open_source(read_component("source", values, PLUGINS), DecodeLimits(), PLUGINS)
        check_source(source)
        assert len(source) == PHOTOS and source.fields == {"latent", "label"}
        for row in range(PHOTOS):
            one, other = (each.read(row, source.fields) for each in (source, plain))
            assert np.array_equal(one.latent, other.latent) and one.label == other.label
    tars = StoredLatents(folder, flips=True)
    assert tars.made_by == plain.made_by and tars.statistics() == plain.statistics()
    assert [tars.read(i, frozenset()).key for i in range(PHOTOS)] == [
        plain.read(i, frozenset()).key for i in range(PHOTOS)
    ]


def test_captions_and_labels_are_kept_in_both_layouts(home: Path, tmp_path: Path) -> None:
    table = {"use": "samples", "split": "val", "part": [0.0, 0.02]}
    images = open_source(read_component("source", table, PLUGINS), DecodeLimits(), PLUGINS)
    inline = '{ use = "samples", split = "val", part = [0.0, 0.02] }'
    for layout in ("safetensors", "tar"):
        folder = encode(home, tmp_path / layout, "--source", inline, "--layout", layout, "--no-flips")
        source = StoredLatents(folder, flips=True)
        assert source.versions == 1 and len(source) == len(images) > 0
        for row in range(len(images)):
            found, own = source.read(row, source.fields), images.read(row, frozenset({"text", "label"}))
            assert (found.key, found.text, found.label) == (own.key, own.text, own.label)
            assert found.text


@pytest.mark.slow
def test_a_folder_is_the_source_of_a_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator on latents of the package's tokenizer; those of another one are refused by name."""
    monkeypatch.chdir(tmp_path)
    inline = '{ use = "samples", split = "val", part = [0.0, 0.1] }'
    assert vtp("encode", "vtp-nano", "--source", inline, "-o", "latents").exit_code == 0
    assert vtp(*command(home, Path("others").absolute(), "--source", inline)).exit_code == 0
    for folder, code, message in (("latents", 0, ""), ("others", 5, "belongs to the tokenizer linear (")):
        recipe = Path(f"{folder}.toml")
        recipe.write_text(
            'extends = "quickstart_dit_nano"\ndrop = ["data.source", "evaluators", "evaluate"]\n'
            f'[run]\nsteps = 2\nout = "run_{folder}"\n[data]\nworkers = 0\n'
            f'[data.source]\nuse = "latents"\npath = "{folder}"\n[views.image]\nrows = 4\n'
        )
        result = vtp("run", recipe)
        assert result.exit_code == code and message in result.output, result.output


def test_decode_brings_a_folder_back(home: Path, encoded: Path, tmp_path: Path) -> None:
    result = vtp("decode", home / "linear", encoded, "-o", tmp_path / "d", "--rows", 4)
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "d").iterdir())
    assert len(files) == PHOTOS
    model, source = load(home / "linear", plugins=PLUGINS), StoredLatents(encoded, flips=False)
    sample = source.read(7, source.fields)
    assert files[7].name == f"000007-{Path(sample.key).stem}.png"
    with torch.no_grad():
        expected = model.postprocess(model.decode(torch.from_numpy(sample.latent)[None]).sample)[0]
    difference = np.asarray(Image.open(files[7])).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_decode_names_a_latent_that_is_not_finite(home: Path, encoded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoded, tmp_path / "z"))
    key = StoredLatents(folder, flips=False).read(5, frozenset()).key
    file = folder / "latents-00001.safetensors"
    with safe_open(file, framework="np") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    row = 5 - len(load_file(folder / "latents-00000.safetensors")["index"])
    state["latents"][row, 3, 0, 1] = np.nan
    save_file(state, file, metadata)
    result = vtp("decode", home / "linear", folder, "-o", tmp_path / "d", "--rows", 4)
    assert result.exit_code == 3, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "latent is not finite" in line and key in line and str(file) in line


def test_a_folder_goes_on_with_its_own_file_size_and_too_many_files_are_refused(
    home: Path, encoded: Path, tmp_path: Path
) -> None:
    before = contents(encoded)
    arguments = command(home, encoded)
    result = vtp(*arguments[: arguments.index("--shard-samples")])
    assert result.exit_code == 0, result.output
    assert contents(encoded) == before
    new = {"tokenizer": name_of(load(home / "linear", plugins=PLUGINS)), "size": 16, "flips": True}
    images = range(100_001)
    table = read_component("source", {"use": "samples", "split": "val"}, PLUGINS)
    with pytest.raises(UsageError, match=r"100001 files.* at least 2 "):
        new_manifest(table, Counted(images), **new, shard_samples=1)  # type: ignore[arg-type]


class Counted:
    """A source of so many samples without fields."""

    fields = frozenset({"image"})
    classes: tuple[str, ...] = ()

    def __init__(self, keys: range) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        return Sample(key=str(self.keys[index]))


def test_decode_refuses_a_filled_folder_and_latents_of_another_tokenizer(
    home: Path, encoded: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    result = vtp("decode", home / "linear", encoded, "-o", tmp_path)
    assert result.exit_code == 2 and "is not empty; name a new folder" in result.output
    result = vtp("decode", home / "kl", encoded, "-o", tmp_path / "d")
    assert result.exit_code == 5 and "belongs to the tokenizer linear (" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--rows", 2], 'numerics was "float32 on cpu, 3 images at a time'),
        (["--no-flips"], "flips was True, and is False now"),
        (["--layout", "tar"], "layout was safetensors"),
        (["--source", "samples"], 'source was "image_folder (path='),
        (["--tokenizer"], "tokenizer was linear"),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused(
    home: Path, encoded: Path, change: list[object], message: str
) -> None:
    before = contents(encoded)
    other = command(home, encoded, tokenizer="kl") if change == ["--tokenizer"] else None
    result = vtp(*(other or command(home, encoded, *change)))
    assert result.exit_code == 2 and message in result.output, result.output
    assert "was begun with other settings: " in result.output
    assert contents(encoded) == before


def test_refusals(home: Path, encoded: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    for arguments, message in (
        (command(home, tmp_path), "is not empty; name a new folder"),
        (["encode", home / "linear", "-o", tmp_path / "a"], "give either IMAGES or --source"),
        (command(home, tmp_path / "a", home / "photos"), "give either IMAGES or --source"),
        (command(home, tmp_path / "a", "--normalized"), "are center crops, not normalised"),
        (command(home, tmp_path / "a", "--source", f'{{ use = "latents", path = "{encoded}" }}'),
         "has no images to encode"),
    ):  # fmt: skip
        result = vtp(*arguments)
        assert result.exit_code == 2 and message in result.output, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_huge_image_is_left_out_and_a_recipe_names_the_source(home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("1", (20_000, 20_000)).save(tmp_path / "photos" / "huge.png", compress_level=1)
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "small.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'extends = "quickstart"\n[data.source]\nuse = "image_folder"\npath = "{tmp_path / "photos"}"\n'
    )
    folder = encode(home, tmp_path / "z", "--source", recipe)
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.encoded == 1
    assert [keys for keys in manifest.left_out.values()] == [("huge.png",)]


def test_weights_that_are_not_finite_are_named(home: Path, tmp_path: Path) -> None:
    model = load(home / "linear", plugins=PLUGINS)
    next(iter(model.bottleneck.parameters())).fill_(float("nan"))
    model.save(tmp_path / "ruined")
    result = vtp("encode", tmp_path / "ruined", "--source", home / "photos", "-o", tmp_path / "z")
    assert result.exit_code == 5 and "is not finite" in result.output
    assert list((tmp_path / "z").glob("*.safetensors")) == []


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_that_are_killed_go_on_to_the_same_folder(home: Path, tmp_path: Path) -> None:
    """By torchrun. A copied set of photos makes enough files to be killed between two of them."""
    root = tmp_path / "photos"
    for number in range(60):
        for path in (home / "photos").rglob("[01]*.png"):
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            (root / path.parent.name / f"{number}-{path.name}").write_bytes(path.read_bytes())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = contents(encode(home, tmp_path / "one", "--source", root))
    finally:
        torch.set_num_threads(threads)
    arguments = [str(each) for each in command(home, tmp_path / "z", "--source", root)]
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vtp_core"]
    first = subprocess.Popen([sys.executable, *ranks, *arguments], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "z").glob("latents-*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = len(list((tmp_path / "z").glob("latents-*")))
    assert 4 <= done < 150, done
    again = subprocess.run(
        [sys.executable, *ranks, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("latents of 600 images") == 1
    assert contents(tmp_path / "z") == expected
    assert json.loads((tmp_path / "z" / MANIFEST).read_text())["encoded"] == 600
