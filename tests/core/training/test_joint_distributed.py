"""The joint step on 2 and 4 gloo ranks under FSDP2, against the one-process oracle, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.core.training.oracle import OracleRun
from tests.core.training.rank_bodies import captured, gradients_of_cases
from tests.core.training.toy import add_teachers, build, gradients
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.tallies import reduce_tallies
from vtp_core.training.ranks.world import World

CASES = [
    {"kind": "vtp"},
    {"kind": "vtp", "vq": True, "chunk": 1},
    {"kind": "vtp", "chunk": 3, "checkpoint": True},
    {"kind": "bottleneck", "vq": True},
    {"kind": "one_view", "chunk": 2},
    {"kind": "last_layer"},
    {"kind": "last_layer", "chunk": 1},
    {"kind": "generation"},
    {"kind": "pixels"},
    {"kind": "vtp", "shard": 1},
]


@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_equal_one_process(size):
    cases = CASES if size == 2 else [{**case, "chunk": 1 if "chunk" in case else None} for case in CASES[:6]]
    if size == 4:
        cases.append({"kind": "vtp", "shard": 2})
    ranks = run_processes(size, gradients_of_cases, cases)
    for rank in ranks[1:]:
        for name, value in ranks[0].items():
            torch.testing.assert_close(
                rank[name], value, rtol=0, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}"
            )
    for number, case in enumerate(cases):
        networks = add_teachers(build(case["kind"], vq=case.get("vq", False)))
        reference = OracleRun(networks)
        values = reference(0)
        expected = {f"grad|{name}": value for name, value in gradients(networks).items()}
        expected |= {
            f"term|{name}": torch.tensor(value, dtype=torch.float64) for name, value in values.items()
        }
        for owner, tally in reduce_tallies(reference.tallies, World()).items():
            expected |= {f"tally|{owner}.{name}": value for name, value in tally.sums.items()}
        # One process of our own gives the gradient norms and sample rows, which the oracle does not have.
        single = captured(World(), **{**case, "shard": 1})
        for name, value in single.result.gradients.items():
            expected[f"norm|{name}"] = torch.tensor(value, dtype=torch.float64)
        for owner, tally in single.tallies.items():
            expected |= {f"tally|{owner}.rows.{name}": value for name, value in tally.rows.items()}
        for name, value in expected.items():
            found = ranks[0][f"{number}|{name}"]
            torch.testing.assert_close(
                found, value, rtol=0, atol=1e-11, msg=lambda m, n=name, c=case: f"{c} {n}: {m}"
            )


def test_single_process_captures_critics_as_the_oracle_has_them():
    networks = add_teachers(build("vtp"))
    OracleRun(networks)(0)
    expected = {name: value for name, value in gradients(networks).items() if ".critic." in name}
    found = captured(World(), "vtp").found
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)
