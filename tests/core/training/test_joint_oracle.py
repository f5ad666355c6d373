"""The joint step against one summed backward, in float64 (`oracle.py`)."""

from __future__ import annotations

import pytest
import torch

from tests.core.training.oracle import OracleRun
from tests.core.training.toy import add_teachers, batches, build, gradients, largest_difference
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.ranks.parallel import wrap
from vtp_core.training.ranks.tallies import reduce_tallies
from vtp_core.training.ranks.world import World

SCENARIOS = ["vtp", "bottleneck", "one_view", "generation", "last_layer"]


def run(kind, *, chunk=None, drop_path=0.0, vq=False, checkpoint=False, compile=False, index=0):
    networks = add_teachers(build(kind, vq=vq))
    wrap(
        networks,
        None,
        activation_checkpoint="block" if checkpoint else "none",
        compile="block" if compile else "none",
    )
    drops = dict.fromkeys(("image", "ssl", "rec"), drop_path)
    step = JointStep(networks, World(), ForwardOptions(total=10, microbatch_rows=chunk, drop_path=drops))
    result = step(batches(index), index)
    return networks, result


def oracle(kind, **options):
    vq = options.pop("vq", False)
    networks = add_teachers(build(kind, vq=vq))
    values = OracleRun(networks, **options)(0)
    return networks, values


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("vq", [False, True])
@pytest.mark.parametrize("kind", SCENARIOS)
def test_gradients_equal_one_summed_backward(kind, vq, chunk):
    expected, values = oracle(kind, vq=vq)
    networks, result = run(kind, vq=vq, chunk=chunk)
    main = {k: v for k, v in gradients(expected).items() if ".critic." not in k}
    ours = {k: v for k, v in gradients(networks).items() if ".critic." not in k}
    difference, name = largest_difference(main, ours)
    assert difference < 1e-12, name
    for term, value in values.items():
        assert result.terms[term] == pytest.approx(value, abs=1e-12), term
    assert any(grad.abs().max() > 0 for grad in ours.values())


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("chunk", [None, 2, 3])
def test_drop_path_repeats_itself_in_chunks_and_under_checkpointing(chunk, checkpoint):
    expected, _ = oracle("vtp", chunk=chunk, drop_path=0.3)
    networks, _ = run("vtp", chunk=chunk, drop_path=0.3, checkpoint=checkpoint)
    main = {k: v for k, v in gradients(expected).items() if ".critic." not in k}
    ours = {k: v for k, v in gradients(networks).items() if ".critic." not in k}
    assert largest_difference(main, ours)[0] < 1e-12
    without, _ = run("vtp", chunk=chunk)
    assert (
        largest_difference(ours, {k: v for k, v in gradients(without).items() if ".critic." not in k})[0]
        > 1e-6
    )


@pytest.mark.parametrize("chunk", [None, 3])
def test_attached_encode_gives_a_gradient_with_respect_to_pixels(chunk):
    expected, values = oracle("pixels")
    networks, result = run("pixels", chunk=chunk)
    assert largest_difference(gradients(expected), gradients(networks))[0] < 1e-12
    assert result.terms["pixels/slope"] == pytest.approx(values["pixels/slope"], rel=1e-12)


@pytest.mark.parametrize("chunk", [None, 3])
def test_tallies_do_not_depend_on_chunks(chunk):
    networks = add_teachers(build("vtp", vq=True))
    step = JointStep(networks, World(), ForwardOptions(total=10, microbatch_rows=chunk))
    seen = {}

    class Update:
        def __call__(self, index, tallies, active):
            seen.update(tallies)
            return {}

        def zero_grad(self):
            pass

    step.update = Update()
    step(batches(0), 0)
    reference = OracleRun(add_teachers(build("vtp", vq=True)))
    reference(0)
    expected = reduce_tallies(reference.tallies, World())
    assert seen.keys() == expected.keys() == {"bottleneck", "dino"}
    for owner, tally in expected.items():
        for name, value in tally.sums.items():
            torch.testing.assert_close(seen[owner].sums[name], value, rtol=0, atol=1e-12)
        for name, value in tally.rows.items():
            torch.testing.assert_close(seen[owner].rows[name], value, rtol=0, atol=1e-12)
