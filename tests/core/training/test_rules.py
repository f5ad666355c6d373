"""The rules of the joint step that a run must keep, each as a test of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.run.tiny_run import metrics, one_line, state, vtp
from tests.core.run.whole_run import ToyRun, numbers, spoil
from tests.core.training.counterexamples import Hidden
from tests.core.training.test_three_steps import assert_close
from tests.core.training.toy import Clip, Dino, Mim, add_teachers, batches, build
from vtp_core.errors import DistributedError, NumericError, UsageError
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.joint import JointStep
from vtp_core.training.optim.guard import Guard
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

ALONE = World()


def test_adding_an_objective_changes_no_other_number(tmp_path: Path):
    """New objectives of weight 0, with parameters, draws and a view of their own."""
    sets = ("views.rec.drop_path=0.2", "views.image.drop_path=0.2", "run.microbatch_rows=3")
    tower = 'use = "clip", width = 16, depth = 1, heads = 2, context = 16, weight = 0.0'
    folders = tmp_path / "few", tmp_path / "many"
    for folder in folders:
        folder.mkdir()
    assert vtp(folders[0], *sets).exit_code == 0
    result = vtp(
        folders[1],
        *sets,
        f'objectives.second={{{tower}, view = "image"}}',
        f'objectives.third={{{tower}, view = "more"}}',
        'views.more={rows = 8, size = 16, augment = "clip", drop_path = 0.3}',
    )
    assert result.exit_code == 0, result.output
    few, many = metrics(folders[0]), metrics(folders[1])
    assert any("third" in key for key in many[0])
    assert [{key: line[key] for key in few[0]} for line in many] == few
    before, after = state(folders[0]), state(folders[1])
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("chunk", [1, 3])
def test_row_chunks_change_no_number_beyond_rounding(chunk):
    whole, chunked = ToyRun(ALONE, late=()), ToyRun(ALONE, late=(), microbatch_rows=chunk)
    expected, found = ({i: run.step(i) for i in range(2)} for run in (whole, chunked))
    assert_close(numbers(found) | chunked.state(), numbers(expected) | whole.state())


def test_parameter_without_gradient_is_named(tmp_path: Path):
    idle = "objectives.idle={use = 'faulty.idle', view = 'rec'}"
    result = vtp(tmp_path, idle)
    assert result.exit_code == 2
    message = one_line(result)
    assert (
        "owner idle: no gradient reaches objectives.idle.unused.weight, objectives.idle.unused.bias"
        in message
    )
    assert "used.weight" not in message.replace("unused.weight", "")
    # A run that made no step leaves its folder free for the mended recipe.
    assert vtp(tmp_path, idle, "run.audit_gradients=false").exit_code == 0


def test_parameter_without_gradient_of_a_late_objective_is_found_when_it_starts(tmp_path: Path):
    result = vtp(tmp_path, "objectives.idle={use = 'faulty.idle', view = 'rec', start = 3}")
    assert result.exit_code == 2
    assert "owner idle: no gradient reaches" in one_line(result)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_parameter_without_dimension_is_refused(tmp_path: Path):
    result = vtp(tmp_path, "objectives.bad={use = 'faulty.scalar', view = 'rec'}")
    assert result.exit_code == 2
    assert one_line(result).startswith("error: objectives.bad.scale is a 0-D parameter")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_critics_take_no_part_in_the_main_pass():
    run = ToyRun(ALONE, late=())
    gan = run.networks.objectives["gan"]
    seen: dict[str, list[tuple[bool, bool]]] = {}

    def watch(method):
        inner = getattr(gan, method)

        def look(step):
            losses = inner(step)
            seen[method] = [(p.requires_grad, p.grad is not None) for p in gan.critic.parameters()]
            return losses

        setattr(gan, method, look)

    watch("forward")
    watch("critic_loss")
    before = {name: p.detach().clone() for name, p in gan.critic.named_parameters()}
    result = run.step(0)
    assert set(seen["forward"]) == {(False, False)}
    assert set(seen["critic_loss"]) == {(True, False)}  # the main pass left no gradient there
    assert result.gradients["grad_norm/gan.critic"] > 0
    assert not all(torch.equal(before[name], p) for name, p in gan.critic.named_parameters())


@pytest.mark.parametrize(("name", "how"), [("l1", "loss"), ("koleo", "gradient"), ("gan", "loss")])
def test_skipped_step_moves_nothing(name, how):
    run = ToyRun(ALONE, late=())
    run.step(0)
    before = run.state()
    undo = spoil(run, name, how, (0,))
    result = run.step(1)
    assert result.skipped is not None
    assert all(torch.equal(tensor, before[key]) for key, tensor in run.state().items())
    run.guard.record(result.skipped, 1)
    with pytest.raises(NumericError, match="step 2"):
        run.guard.record(run.step(2).skipped, 2)
    undo()
    assert run.step(3).skipped is None
    assert not all(torch.equal(tensor, before[key]) for key, tensor in run.state().items())


def test_a_bottleneck_is_told_the_steps_that_it_missed(monkeypatch: pytest.MonkeyPatch):
    """Skipped ones, and those in which nothing was tokenised; none while it is frozen."""
    run = ToyRun(ALONE, late=())
    told: list[range] = []
    run.networks.bottleneck.before_step = told.append
    run.step(0)
    undo = spoil(run, "gan", "loss", (0,))
    assert run.step(1).skipped and run.step(2).skipped
    undo()
    resumed = Guard(0)
    resumed.resume(run.guard.state(), "step-00000003")
    run.joint.guard = run.joint.update.guard = resumed
    run.step(3)
    with monkeypatch.context() as patch:
        patch.setattr(Forwards, "tallies", lambda _: [])  # as where no objective asks for the latent
        run.step(4)
    run.step(5)
    run.networks.bottleneck.eval()
    run.step(6)
    assert told == [range(1), range(1, 2), range(1, 3), range(1, 4), range(4, 5), range(4, 6)]


def test_drift_between_ranks_is_looked_for_before_each_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def drifted(state):
        raise DistributedError(f"{next(iter(state))} differs between rank 0 and rank 1")

    monkeypatch.setattr("vtp_core.run.loop.check_replicas", drifted)
    result = vtp(tmp_path)
    assert result.exit_code == 6
    assert "differs between rank 0 and rank 1" in one_line(result)
    assert not (tmp_path / "run/checkpoints").exists()


def test_module_that_no_one_shares_is_refused():
    networks = build("vtp")
    networks.objectives["dino"].shares = ()
    add_teachers(networks)
    with pytest.raises(UsageError, match=r"'mim': no objective shares 'dino\.head'; what is shared: nothing"):
        JointStep(networks, ALONE, ForwardOptions(total=10))(batches(0), 0)


def test_module_of_two_owners_is_refused():
    networks = build("vtp")
    networks.objectives["mim"].head = networks.objectives["dino"].head  # taken, not shared
    with pytest.raises(UsageError, match=r"objectives\.mim\.head.*already trained as.*exactly one owner"):
        ToyRun(ALONE, networks=networks)


def test_teacher_that_is_not_declared_is_refused():
    networks = build("vtp")
    networks.objectives["dino"].teachers = ("head",)
    add_teachers(networks)
    with pytest.raises(UsageError, match=r"asks for the teacher of ToyEncoder.*`teachers`"):
        JointStep(networks, ALONE, ForwardOptions(total=10))(batches(0), 0)


def test_masked_encoding_that_is_not_declared_is_refused():
    networks = add_teachers(build("vtp"))
    networks.objectives["mim"].config = networks.objectives["mim"].config.model_copy(update={"masked": False})
    with pytest.raises(UsageError, match=r"'mim' encodes view 'ssl' masked.*ViewNeed\(masked=True\)"):
        JointStep(networks, ALONE, ForwardOptions(total=10))(batches(0), 0)


def test_own_module_without_tensors_in_its_output_is_refused():
    class Opaque(nn.Sequential):
        def forward(self, x):
            return Hidden((super().forward(x),))

    networks = add_teachers(build("vtp"))
    networks.objectives["clip"].text.__class__ = Opaque
    with pytest.raises(UsageError, match=r"Opaque returned Hidden, in which no tensor is found"):
        JointStep(networks, ALONE, ForwardOptions(total=10))(batches(0), 0)


@pytest.mark.parametrize("spelling", ["class", "instance"])
def test_the_earlier_name_of_teachers_is_refused(spelling):
    networks = build("vtp")
    dino = networks.objectives["dino"]
    if spelling == "class":
        dino.__class__ = type("Old", (type(dino),), {"twins": ("head",)})
    else:
        dino.twins = ("head",)
    with pytest.raises(UsageError, match=r"'dino': the attribute `twins`.*`teachers`; rename it"):
        networks.check()


def test_critic_loss_that_fails_closes_its_forwards(monkeypatch: pytest.MonkeyPatch):
    run = ToyRun(ALONE, late=())
    opened, closed = [], []

    def note(name, where):
        inner = getattr(Forwards, name)

        def noted(self, *arguments):
            where.append(id(self))
            return inner(self, *arguments)

        monkeypatch.setattr(Forwards, name, noted)

    def fails(step):
        raise RuntimeError("in the critic")

    note("__init__", opened)
    note("close", closed)
    run.networks.objectives["gan"].critic_loss = fails
    with pytest.raises(RuntimeError, match="in the critic"):
        run.step(0)
    assert len(opened) == 4 and closed == opened


def test_toy_objectives_are_what_the_rules_need():
    assert Dino().teachers == ("head", "tokenizer.encoder") and Dino.shares == ("head",)
    assert Mim().config.masked
    assert all(parameter.ndim for parameter in Clip().parameters())


def test_frozen_features_are_made_once_for_all_objectives() -> None:
    networks = build("last_layer")
    networks.frozen = {"vfm": build("last_layer", seed=1).encoder.requires_grad_(False).eval()}
    views = {"rec": batches(0)["rec"]}
    calls: list[int] = []
    networks.frozen["vfm"].register_forward_hook(lambda *_: calls.append(1))
    needs = {"rec": ViewNeed()}
    options = ForwardOptions(microbatch_rows=3)
    forwards = Forwards(networks, World(), views, needs, options, 0)
    first = EngineStep(forwards, "l1", needs).frozen_features("vfm", "rec", (0,))
    again = EngineStep(forwards, "gan", needs).frozen_features("vfm", "rec", (0,))
    assert len(calls) == 3  # chunks of 3, 3 and 2 rows
    assert first.patches is again.patches
    plain = networks.frozen["vfm"]([views["rec"].crops["global"]], [None], layers=(0,))[0]
    torch.testing.assert_close(first.patches, plain.patches, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first["global"].layers[0], plain.layers[0], rtol=1e-12, atol=1e-12)
    assert not first.patches.requires_grad
