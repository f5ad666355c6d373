"""Muon: its formula by singular values, what it moves, several ranks, resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.run.tiny_run import assert_same_bits, metrics, one_line, start, state, vtp
from tests.core.run.whole_run import ToyRun, numbers
from tests.core.training.test_three_steps import assert_close
from vtp_core.config import OptimizerOverrides
from vtp_core.errors import UsageError
from vtp_core.parameters import ParamRule
from vtp_core.plugins import load_plugins
from vtp_core.recipe import RecipeErrors, load_recipe
from vtp_core.run.setup import build
from vtp_core.schedule import Cosine
from vtp_core.testing.ranks import run_processes
from vtp_core.training.optim.optimizer import Owner, build_optimizer
from vtp_core.training.ranks.replicas import check_replicas
from vtp_core.training.ranks.world import World
from vtp_plugins.muon.config import MuonConfig

PLUGINS = load_plugins(only=["muon"])
SHAPES = {"wide": (8, 24), "tall": (24, 8), "square": (12, 12)}


class Layers(nn.Module):
    """Matrices in blocks, and everything that is none."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.blocks = nn.ModuleList(
            nn.ParameterDict({"weight": drawn(*shape), "bias": drawn(shape[0])}) for shape in SHAPES.values()
        )
        self.convolution = drawn(4, 3, 2, 2)
        self.embedding = drawn(10, 4)


def owner(module: nn.Module, rules=(), **overrides: float) -> Owner:
    """The module as an encoder, whose blocks hold hidden layers."""
    prefix = "tokenizer.encoder."
    parameters = {prefix + name: value for name, value in module.named_parameters()}
    return Owner(
        name="encoder",
        parameters=parameters,
        rules=rules,
        prefix=prefix,
        overrides=OptimizerOverrides(**overrides),
        in_blocks=frozenset(name for name in parameters if ".blocks." in name),
    )


def fill_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Five steps of Jordan's polynomial on the singular values, which is what Newton-Schulz does to them."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / matrix.double().norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ vt


@pytest.mark.parametrize("scaling", ["match_rms_adamw", "original", "spectral_unclamped"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_move_by_the_formula_and_the_rest_by_adamw(scaling: str, nesterov: bool) -> None:
    config = MuonConfig(
        lr=Cosine(start=3e-3, end=1e-4),
        matrix_lr=Cosine(start=2e-2, end=1e-3),
        weight_decay=0.3,
        betas=(0.9, 0.95),
        momentum=0.8,
        nesterov=nesterov,
        scaling=scaling,
    )
    ours, theirs = Layers(), Layers()
    rules = [ParamRule(pattern="blocks.1.*", lr=0.5, decay=0.25)]
    optimizer = build_optimizer([owner(ours, rules, lr=2.0)], config, 10, PLUGINS)
    rest = {
        name: value for name, value in theirs.named_parameters() if value.ndim != 2 or "blocks" not in name
    }
    # (factor on the rate, factor on the decay): vectors have no decay unless a rule says so.
    factors = {
        name: (1.0, 0.25) if "blocks.1" in name else (2.0, float(value.ndim >= 2))
        for name, value in rest.items()
    }
    adamw = torch.optim.AdamW([{"params": [value]} for value in rest.values()], betas=(0.9, 0.95), fused=True)
    momenta = {f"blocks.{i}.weight": torch.zeros(shape) for i, shape in enumerate(SHAPES.values())}
    expected = {name: value.detach().double() for name, value in theirs.named_parameters() if name in momenta}
    for index in range(4):
        optimizer.set_schedules(index)
        fill_gradients(ours, index)
        fill_gradients(theirs, index)
        for group, (rate, decay) in zip(adamw.param_groups, factors.values(), strict=True):
            group["lr"] = config.lr.at(index, 10) * rate
            group["weight_decay"] = 0.3 * decay
        adamw.step()
        for name, value in theirs.named_parameters():
            if name in momenta:
                momenta[name] = 0.8 * momenta[name] + 0.2 * value.grad
                update = 0.2 * value.grad + 0.8 * momenta[name] if nesterov else momenta[name]
                rate, decay = (1.0, 0.25) if "blocks.1" in name else (2.0, 1.0)
                rate *= config.matrix_lr.at(index, 10)
                a, b = value.shape
                scale = {
                    "match_rms_adamw": 0.2 * math.sqrt(max(a, b)),
                    "original": math.sqrt(max(1, a / b)),
                    "spectral_unclamped": math.sqrt(a / b),
                }[scaling]
                expected[name] *= 1 - rate * 0.3 * decay
                expected[name] -= rate * scale * orthogonalised(update)
        optimizer.step()
    moved = dict(ours.named_parameters())
    for name, value in rest.items():
        assert torch.equal(moved[name], value), name
    begin = dict(Layers().named_parameters())
    for name, value in expected.items():
        step = (value - begin[name]).abs().max().item()
        # The orthogonalisation is in bfloat16.
        torch.testing.assert_close(moved[name].double(), value, rtol=0, atol=0.03 * step, msg=name)


def test_updates_have_the_size_of_adamws() -> None:
    """A root mean square of 0.2 to 0.4 of the learning rate, as AdamW's (arXiv 2502.16982, section 2.2)."""
    module = Layers()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = build_optimizer([owner(module)], MuonConfig(lr=1e-2, weight_decay=0.0), 10, PLUGINS)
    fill_gradients(module, 0)
    optimizer.step()
    for name, value in module.named_parameters():
        if "blocks" in name and value.ndim == 2:
            size = (value - before[name]).square().mean().sqrt().item() / 1e-2
            assert 0.15 < size < 0.4, (name, size)


def test_state_exists_before_the_first_step_under_names_of_its_own() -> None:
    module = Layers()
    optimizer = build_optimizer([owner(module)], MuonConfig(lr=1e-2), 10, PLUGINS)
    names = set(optimizer.state_tensors())
    assert {name for name in names if "blocks.0" in name} == {
        "optimizer.encoder.blocks.0.weight.momentum_buffer",
        *(f"optimizer.encoder.blocks.0.bias.{key}" for key in ("exp_avg", "exp_avg_sq", "step")),
    }
    assert "optimizer.encoder.embedding.exp_avg" in names
    assert "optimizer.encoder.convolution.exp_avg" in names
    fill_gradients(module, 0)
    optimizer.step()
    assert set(optimizer.state_tensors()) == names
    assert optimizer.state_bytes() == {
        "encoder": sum(4 * tensor.numel() for tensor in optimizer.state_tensors().values())
    }


def test_a_matrix_without_gradient_stays_with_its_state() -> None:
    module = Layers()
    optimizer = build_optimizer([owner(module)], MuonConfig(lr=1e-2), 10, PLUGINS)
    fill_gradients(module, 0)
    module.blocks[0]["weight"].grad = None
    before = module.blocks[0]["weight"].detach().clone()
    optimizer.step()
    assert torch.equal(module.blocks[0]["weight"], before)
    assert not optimizer.state_tensors()["optimizer.encoder.blocks.0.weight.momentum_buffer"].any()


def test_hidden_layers_of_the_real_networks_are_its_matrices() -> None:
    plugins = load_plugins()
    recipe = load_recipe("recipes/quickstart.toml", ["optimizer.use=muon"], plugins)
    networks, _ = build.build_run_networks(recipe, plugins)
    build.apply_freezes(networks, recipe)
    optimizer, critics = build.build_optimizers(networks, recipe, plugins)
    assert not critics
    matrices = {
        name.removesuffix(".weight.momentum_buffer")
        for name in optimizer.state_tensors()
        if name.endswith(".momentum_buffer")
    }
    vit = ("attn.qkv", "attn.proj", "mlp.w1", "mlp.w2", "mlp.w3")
    text = ("qkv", "proj", "fc1", "fc2")
    assert matrices == {
        *(f"optimizer.encoder.block.{i}.{layer}" for i in range(6) for layer in vit),
        *(f"optimizer.decoder.block.{i}.{layer}" for i in range(4) for layer in vit),
        *(f"optimizer.clip.text.blocks.{i}.{layer}" for i in range(2) for layer in text),
    }
    methods = {(row.owner, row.method) for row in optimizer.describe()}
    assert {owner for owner, method in methods if method == "muon"} == {"encoder", "decoder", "clip"}
    assert {owner for owner, method in methods if method == "adamw"} == {
        "encoder", "bottleneck", "decoder", "clip", "dino",
    }  # fmt: skip


MUON = "optimizer.use=muon"
STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'


@pytest.mark.slow
def test_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    assert vtp(whole, MUON, "optimizer.matrix_lr=0.003").exit_code == 0
    assert vtp(halves, MUON, "optimizer.matrix_lr=0.003", STOP).exit_code == 75
    with pytest.raises(AssertionError):  # the comparison below can fail
        assert_same_bits(state(halves), state(whole))
    result = vtp(halves, MUON, "optimizer.matrix_lr=0.003", STOP, resume=True)
    assert result.exit_code == 0, result.output
    assert_same_bits(state(halves), state(whole))
    assert metrics(halves) == metrics(whole)
    assert any(name.endswith(".momentum_buffer") for name in state(whole))


def test_it_is_a_change_of_the_recipe(tmp_path: Path) -> None:
    assert vtp(tmp_path, STOP).exit_code == 75
    result = vtp(tmp_path, MUON, STOP, resume=True)
    assert result.exit_code == 5
    assert 'optimizer.use: "adamw" -> "muon"' in one_line(result)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.moment=0.9"], r'did you mean "momentum"\?'),
        (["optimizer.momentum=1.0"], r"should be less than 1"),
        (["optimizer.scaling=orignal"], r'expected "match_rms_adamw", "original" or "spectral_unclamped"'),
        (
            ["optimizer.scaling=original"],
            r'scaling = "original" needs a learning rate of its own; set matrix_lr',
        ),
        (
            ["parallel.shard=2"],
            r"optimizer muon needs whole parameters on each rank; set parallel\.shard = 1",
        ),
    ],
)
def test_mistakes_are_errors_before_the_run(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeErrors, match=message) as error:
        load_recipe("recipes/quickstart.toml", [MUON, *overrides], world_size=2)
    assert len(error.value.problems) == 1


def test_a_critics_optimiser_is_a_slot_too() -> None:
    table = '{ use = "muon", lr = 1e-4 }'
    recipe = load_recipe("quickstart_gan", [f"objectives.gan.critic_optimizer={table}"])
    config = recipe.objectives["gan"].critic_optimizer
    assert isinstance(config, MuonConfig) and config.lr == 1e-4 and config.momentum == 0.95
    for wrong, message in (
        ('{ use = "muin", lr = 1e-4 }', r'critic_optimizer\.use .* did you mean "muon"\?'),
        (
            '{ use = "muon", lr = 1e-4, moment = 0.9 }',
            r'critic_optimizer\.moment .* did you mean "momentum"\?',
        ),
        ("{ beta = [0.5, 0.9] }", r"critic_optimizer\.beta .* did you mean"),
    ):
        with pytest.raises(RecipeErrors, match=message):
            load_recipe("quickstart_gan", [f"objectives.gan.critic_optimizer={wrong}"])


CONFIG = MuonConfig(lr=1e-2, weight_decay=0.1, clip=0.5)


def replicated(world: World) -> dict[str, torch.Tensor]:
    """Three steps on replicated parameters, and the error on sharded ones."""
    run = ToyRun(world, shard=1, config=CONFIG, plugins=PLUGINS)
    found = numbers({index: run.step(index) for index in range(3)}) | run.state()
    check_replicas(run.live())
    if world.size > 1:
        try:
            ToyRun(world, shard=world.size, config=CONFIG, plugins=PLUGINS)
        except UsageError as error:
            assert "set parallel.shard = 1" in str(error), error
        else:
            raise AssertionError("sharded matrices were taken")
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_equal_one() -> None:
    """In float64, so that bfloat16 rounds the momenta alike."""
    alone = replicated(World())
    assert any(name.endswith(".momentum_buffer") for name in alone)
    for rank in run_processes(2, replicated):
        assert_close(rank, alone)


@pytest.mark.distributed
@pytest.mark.slow
def test_vtp_run_on_two_ranks(tmp_path: Path) -> None:
    process = start(tmp_path, MUON, options=("--nproc", "2"))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
