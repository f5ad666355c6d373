"""The paper's recipes: all there, valid on 256 ranks, every value with its origin, and each what it says."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from tests.recipes.names import (
    ABLATIONS,
    AUTO_ENCODERS,
    CODES,
    COMPARED,
    FINAL,
    FIRST_STAGE,
    GENERATORS,
    MEASUREMENTS,
    OTHERS,
    PAPER,
    SECOND_STAGE,
    TABLE_1,
)
from vtp_core.artefact.assembly import build_networks
from vtp_core.data.source import Sample
from vtp_core.errors import UsageError
from vtp_core.evaluation.opening import build_evaluators
from vtp_core.evaluation.runner import why_not
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Features
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.recipe.shipped import shipped_recipes
from vtp_core.testing import TINY_DIMS
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator

OTHER = ("objectives", "views", "ema", "evaluators")
"""Tables in which recipes with other objectives differ."""
COMPONENTS = ("use", "kind", "view")
"""Keys that name what a table is about; the others are values and say where they come from."""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def recipes(plugins: Plugins) -> dict[str, Recipe]:
    return {name: load_recipe(name, (), plugins, world_size=256) for name in PAPER}


def tables(recipe: Recipe, *without: str) -> dict[str, Any]:
    found = recipe.model_dump(mode="json", by_alias=True)
    del found["run"]["out"]
    return {key: value for key, value in found.items() if key not in ("name", *without)}


def bases(file: Path) -> list[Path]:
    found = tomllib.loads(file.read_text("utf-8")).get("extends", [])
    return [
        Path(os.path.normpath(file.parent / base)) for base in ([found] if isinstance(found, str) else found)
    ]


def links(file: Path) -> int:
    return max((1 + links(base) for base in bases(file)), default=0)


def test_all_ship_and_are_valid_on_256_ranks(recipes: Mapping[str, Recipe]) -> None:
    assert len(PAPER) == len(set(PAPER)) == 45
    for name, recipe in recipes.items():
        assert recipe.name == name
        assert all(view.rows % 256 == 0 and view.size == 256 for view in recipe.views.values())


@pytest.mark.parametrize("name", (*PAPER, *CODES, *OTHERS, *GENERATORS))
def test_has_a_smoke_twin_within_three_links(name: str) -> None:
    shipped = shipped_recipes()
    smoke = shipped[f"smoke/{name}"]
    assert bases(smoke)[0] == shipped[name]
    assert links(smoke) <= 3
    assert not any("parts/" in found for found in shipped)


def test_what_a_recipe_measures_has_data_to_be_measured_on(
    recipes: Mapping[str, Recipe], plugins: Plugins
) -> None:
    others = [load_recipe(name, (), plugins) for name in (*CODES, *OTHERS, *GENERATORS, *MEASUREMENTS)]
    for recipe in (*recipes.values(), *others):
        assert recipe.evaluators and recipe.evaluate.source is not None, recipe.name


def test_every_value_says_where_it_comes_from(recipes: Mapping[str, Recipe], plugins: Plugins) -> None:
    bare = set()
    others = [load_recipe(name, (), plugins) for name in (*CODES, *OTHERS, *GENERATORS, *MEASUREMENTS)]
    for recipe in (*recipes.values(), *others):
        keys = list(recipe.provenance)
        for key, origin in recipe.provenance.items():
            is_table = any(other.startswith((f"{key}.", f"{key}[")) for other in keys)
            if not is_table and key.rpartition(".")[2] not in COMPONENTS and origin.tag is None:
                bare.add(f"{origin.file}:{origin.line} {key}")
    assert not bare


@pytest.mark.parametrize(
    ("names", "rows", "samples"),
    [
        (FINAL, {"clip": 32768, "ssl": 8192, "rec": 4096}, 3.3e9),
        (ABLATIONS, {"clip": 16384, "ssl": 4096, "rec": 2048}, 1.1e9),
    ],
)
def test_joint_models(recipes: Mapping[str, Recipe], names: tuple[str, ...], rows, samples: float) -> None:
    for name in names:
        recipe = recipes[name]
        assert {view: table.rows for view, table in recipe.views.items()} == rows
        assert recipe.run.steps * rows["clip"] == pytest.approx(samples, rel=1e-4)
        weights = {objective: table.weight for objective, table in recipe.objectives.items()}
        assert weights == {"clip": 1, "dino": 1, "mim": 1, "koleo": 0.1, "l1": 0.1, "perceptual": 0.1}
        steps = {recipe.objectives[objective].teacher_temperature.steps for objective in ("dino", "mim")}
        assert steps == {round(0.3 * recipe.run.steps)}


def test_settings_in_which_the_published_codes_differ_from_our_defaults(
    recipes: Mapping[str, Recipe],
) -> None:
    for name in set(PAPER) - {"ae_cnn", "ae_cnn_gan"}:
        assert recipes[name].encoder.drop_path_mode == "subset"
    for recipe in recipes.values():
        assert recipe.optimizer.clip_scope == "owner"
        assert "clip" not in recipe.objectives or not recipe.objectives["clip"].equal_text_mask
        if "ssl" in recipe.views:
            crop, origin = recipe.views["ssl"].crops["local"], recipe.provenance
            assert (crop.count, crop.size, crop.scale) == (8, 112, (0.05, 0.32))
            tags = [origin[f"views.ssl.crops.local.{key}"].tag for key in ("count", "size", "scale")]
            assert tags == ["upstream", "ours", "upstream"]


def test_sizes_of_the_networks(recipes: Mapping[str, Recipe]) -> None:
    sizes = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
    for size, expected in sizes.items():
        final, light = recipes[f"vtp_{size}"], recipes[f"vtp_abl_{size}"]
        for network in (
            final.encoder,
            final.decoder,
            light.encoder,
            recipes[f"scale_encoder_ae_{size}"].encoder,
        ):
            assert (network.width, network.depth, network.heads) == expected
        assert (light.decoder.width, light.decoder.depth, light.decoder.heads) == (1024, 4, 16)
    for depth in (4, 12, 24):
        assert recipes[f"scale_decoder_{depth}"].decoder.depth == depth


def test_rotary_positions_are_computed_as_the_published_models_do(recipes: Mapping[str, Recipe]) -> None:
    for name in set(PAPER) - {"ae_cnn", "ae_cnn_gan"}:
        assert recipes[name].encoder.rope_dtype == recipes[name].decoder.rope_dtype == "bfloat16"


@pytest.mark.parametrize("name", [*FINAL, *(f"{name}_gan" for name in FINAL)])
def test_final_models_are_built_as_the_published_large_one(recipes: Mapping[str, Recipe], name: str) -> None:
    recipe, tag = recipes[name], "author" if name.startswith("vtp_l") else "ours"
    read = [
        (f"{part}.{key}", getattr(recipe, part)) for part in ("encoder", "decoder") for key in ("qk_norm",)
    ]
    read += [(f"objectives.{key}.bottleneck", table) for key, table in recipe.objectives.items()]
    read = [(path, table) for path, table in read if hasattr(table, path.rpartition(".")[2])]
    heads = () if name.endswith("gan") else ("clip", "dino", "mim", "koleo")
    expected = {"encoder.qk_norm", "decoder.qk_norm", *(f"objectives.{head}.bottleneck" for head in heads)}
    assert {path for path, _ in read} == expected
    for path, table in read:
        assert getattr(table, path.rpartition(".")[2]) is False
        origin = recipe.provenance[path]
        assert origin.tag == tag, path
    ablation = recipes[f"vtp_abl_{name[4]}"]
    assert ablation.encoder.qk_norm and ablation.decoder.qk_norm
    assert ablation.provenance["encoder.qk_norm"].tag == "paper"


def test_a_family_differs_in_one_thing(recipes: Mapping[str, Recipe]) -> None:
    for size in "sbl":
        assert tables(recipes[f"scale_encoder_{size}"]) == tables(recipes[f"vtp_abl_{size}"])
    for name in ("ae_abl_l", "clip_ae", "ssl_ae", "vtp_abl_l"):
        wide = recipes[f"{name}_d256"]
        assert wide.bottleneck.channels == 256
        assert recipes[name].bottleneck.channels == 64
        assert tables(wide, "bottleneck") == tables(recipes[name], "bottleneck")
    for number in ("100k", "1m", "10m", "100m"):
        for name, base in (
            (f"vtp_l_data_{number}", "vtp_abl_l"),
            (f"ae_l_data_{number}", "scale_encoder_ae_l"),
        ):
            assert tables(recipes[name], "data") == tables(recipes[base], "data")
    assert tables(recipes["scale_encoder_ae_l"]) == tables(recipes["ae_abl_l"])
    assert tables(recipes["ae_abl_l"], *OTHER) == tables(recipes["vtp_abl_l"], *OTHER)
    joint = recipes["vtp_abl_l"]
    for name, left_out in (("clip_ae", {"dino", "mim", "koleo"}), ("ssl_ae", {"clip"})):
        assert joint.objectives.keys() - recipes[name].objectives.keys() == left_out
        assert tables(recipes[name], *OTHER) == tables(joint, *OTHER)
        for table in ("objectives", "views"):
            rest = getattr(recipes[name], table)
            assert rest == {key: getattr(joint, table)[key] for key in rest}
    for name in AUTO_ENCODERS:
        assert set(recipes[name].objectives) == {"l1", "perceptual"}


def test_data_sets_hold_as_many_images_as_their_names_say(recipes: Mapping[str, Recipe]) -> None:
    for number, images in (("100k", 1e5), ("1m", 1e6), ("10m", 1e7), ("100m", 1e8)):
        for name, base in ((f"vtp_l_data_{number}", "vtp_abl_l"), (f"ae_l_data_{number}", "ae_abl_l")):
            source, whole = recipes[name].data.source, recipes[base].data.source
            assert source.subset.size == images and whole.subset is None
            assert source.subset.seed == 0  # of one seed: nested
            assert source.model_copy(update={"subset": None}) == whole


def test_table_1_trains_on_the_data_set_that_it_is_measured_on(recipes: Mapping[str, Recipe]) -> None:
    for name in TABLE_1:
        for stage in (recipes[name], recipes[f"{name}_gan"]):
            assert stage.data.source == stage.evaluate.train_source
            assert stage.data.source.urls == "data/imagenet/train-{0000..1023}.tar"
            assert stage.evaluate.source.urls.startswith("data/imagenet/val-")
    for name in set(PAPER) - set(TABLE_1) - {f"{name}_gan" for name in TABLE_1}:
        assert recipes[name].data.source.urls == "data/datacomp/{00000..27699}.tar"


def test_auto_encoders_see_as_many_images_as_vtp_sees_pairs(recipes: Mapping[str, Recipe]) -> None:
    joint = recipes["vtp_abl_l"]
    pairs = joint.run.steps * joint.views["clip"].rows
    assert pairs == pytest.approx(1.1e9, rel=1e-4)
    for name in COMPARED:
        recipe = recipes[name]
        assert recipe.run.steps * recipe.views["rec"].rows == pairs, name
        assert list(recipe.views) == ["rec"]


def test_light_decoders(recipes: Mapping[str, Recipe]) -> None:
    """Figure 5 compares at 64 and 256 channels with the same decoder of four blocks."""
    for name in ("ae_abl_l", "ae_abl_l_d256", "clip_ae_d256", "ssl_ae_d256", "vtp_abl_l_d256"):
        assert recipes[name].decoder == recipes["vtp_abl_l"].decoder
        assert recipes[name].decoder.depth == 4


def test_a_recipe_that_went_names_the_one_in_its_place(plugins: Plugins) -> None:
    for folder, stage in itertools.product(("", "smoke/"), ("", "_gan")):
        old, new = f"{folder}ae_vit_l_d256{stage}", f"{folder}ae_abl_l_d256{stage}"
        with pytest.raises(UsageError, match=f'"{new}" took its place'):
            load_recipe(old, (), plugins)
        assert new in shipped_recipes() and old not in shipped_recipes()


def test_zero_shot_is_measured_with_the_prompts_of_open_clip(recipes: Mapping[str, Recipe]) -> None:
    measured = {name for name in PAPER if "zero_shot" in recipes[name].evaluators}
    assert measured == {name for name in PAPER if "clip" in recipes[name].objectives}
    assert measured >= {*FINAL, *ABLATIONS, "clip_ae", "clip_ae_d256"}
    for name in measured:
        table = recipes[name].evaluators["zero_shot"]
        assert (table.use, table.templates, table.classes) == ("zero_shot", "openai", "imagenet")


def test_table_2_has_a_column_of_each_published_protocol(plugins: Plugins) -> None:
    recipe = load_recipe("table2", (), plugins)
    columns = {
        name: (table.use, getattr(table, "protocol", None)) for name, table in recipe.evaluators.items()
    }
    assert columns == {
        "zero_shot": ("zero_shot", "vtp-2512"),
        "linear_probe": ("dino_probe", "vtp-2512"),
        "latent_probe": ("linear_probe", None),
        "rfid": ("frechet", "vtp-2512"),
        "gfid": ("frechet_generated", "vtp-2512-gfid50k-xl"),
    }
    # Every image of both sets: the protocols name 50,000 and 1,281,167.
    assert recipe.evaluate.limit is None and not any(
        getattr(table, "force", False) for table in recipe.evaluators.values()
    )


@dataclass(frozen=True)
class ImageNet:
    """A set of ImageNet's size, of which nothing is read."""

    images: int
    fields = frozenset({"image", "label"})
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.images

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        raise AssertionError("not read")


def test_table_2_refuses_no_tokenizer_that_has_everything(plugins: Plugins, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    statistics = tmp_path / "adm.npz"
    numpy.savez(statistics, mu=numpy.zeros(2048), sigma=numpy.eye(2048))
    files = (
        'evaluators.rfid.weights="random"',
        'evaluators.gfid.weights="random"',
        f'evaluators.gfid.reference="{statistics}"',
    )
    with torch.device("meta"):
        evaluators = build_evaluators(load_recipe("table2", files, plugins), plugins)
    tokenizer = tiny_tokenizer(replace(TINY_DIMS, depth=4), size=256)
    sampling = {"steps": 249, "shift": 1 / 0.075, "balance": "uniform"}
    config = GenerationConfig(use="generation", view="rec", classes=1000, sampling=sampling)
    with torch.device("meta"):
        tokenizer.exports["generate"] = FlowGenerator(config, tokenizer.latent_channels)
    val, train = (
        EvaluationSet(name=name, source=ImageNet(images))
        for name, images in (("val", 50_000), ("train", 1_281_167))
    )
    assert {name: why_not(each, tokenizer, val, train) for name, each in evaluators.items()} == dict.fromkeys(
        ("zero_shot", "linear_probe", "latent_probe", "rfid", "gfid")
    )
    part = replace(val, limit=5_000)
    for name in ("zero_shot", "linear_probe", "rfid"):
        assert "measured on 50000 images, and val has 5000" in str(
            why_not(evaluators[name], tokenizer, part, train)
        )


@pytest.mark.parametrize("name", SECOND_STAGE)
def test_second_stage_tunes_the_decoder_of_the_first(recipes: Mapping[str, Recipe], name: str) -> None:
    recipe, first = recipes[name], recipes[name.removesuffix("_gan")]
    assert recipe.init_from == f"runs/{first.name}"
    assert recipe.freeze == ("encoder", "bottleneck")
    assert list(recipe.objectives) == ["l1", "perceptual", "gan"]
    assert recipe.ema.networks == ("tokenizer.decoder",)
    for part in ("encoder", "bottleneck", "decoder"):
        assert getattr(recipe, part) == getattr(first, part)
    evaluators = {key: table for key, table in first.evaluators.items() if key != "zero_shot"}
    assert recipe.evaluators == evaluators  # the text tower stays behind
    gan = recipe.objectives["gan"]
    assert 0 < gan.start + gan.warmup + gan.ramp < recipe.run.steps


def test_first_stage_has_no_adversary(recipes: Mapping[str, Recipe]) -> None:
    for name in FIRST_STAGE:
        assert recipes[name].init_from is None
        assert not recipes[name].freeze
        assert not any(table.use == "gan" for table in recipes[name].objectives.values())


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [
        ("ae_vit_b", 171.4e6, 87.7e9),
        ("ae_vit_l", 607.2e6, 311.1e9),
        ("ae_cnn", 70.27e6, 389.4e9),
        ("vtp_s", 43.23e6, None),
        ("vtp_b", 171.2e6, None),
        ("vtp_l", 607.2e6, None),
    ],
)
def test_parameters_and_operations_of_table_1(
    name: str, parameters: float, operations: float | None, recipes: Mapping[str, Recipe], plugins: Plugins
) -> None:
    """Operations: 2 x multiply-adds of linear and convolution layers, one image encoded and decoded."""
    recipe, counted = recipes[name], []
    with torch.device("meta"):
        networks = build_networks(plugins, recipe.encoder, recipe.bottleneck, recipe.decoder)
        parts = [networks.encoder, networks.bottleneck.eval(), networks.decoder]
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        assert count == pytest.approx(parameters, rel=2e-3)
        if operations is None:
            return
        for layer in (module for part in parts for module in part.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(
                    lambda layer, _, out: counted.append(2 * out.numel() * layer.weight[0].numel())
                )
        tokens = networks.encoder([torch.empty(1, 1, 3, 256, 256)], [None])
        latent = networks.bottleneck(Features(crops={"global": tokens[0]}))
        assert networks.decoder(latent.z).shape == (1, 3, 256, 256)
    assert sum(counted) == pytest.approx(operations, rel=0.01)
