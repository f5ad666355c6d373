"""Residual quantisers of vector-quantize-pytorch against the library and plain formulas; what is refused."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import vector_quantize_pytorch as library
from click.testing import CliRunner
from pydantic import ValidationError

from tests.agreement import Agreement
from tests.core.run.tiny_run import RECIPE
from tests.plugins.vq.quantizers import DIM, build
from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_core.testing import TINY_DIMS
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import LeftOutConfig, VqConfig
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.library import ResidualCodebooks, ResidualLevels

NAMES = ("residual", "residual simvq", "residual fsq", "product residual")
OURS = {"ResidualVQ", "ResidualSimVQ", "ResidualFSQ"}


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["residual", "residual simvq"])
@pytest.mark.agrees(
    "residual codebooks: codes, vectors, losses, their gradients", "vector-quantize-pytorch", 1e-5
)
def test_stages_of_codebooks_are_the_librarys(name: str, agreement: Agreement) -> None:
    torch.manual_seed(0)
    weights = {"codebook": 0.7, "commitment": 0.7 if name == "residual" else 0.175}
    ours = build(name, stages=3, codes=16, **weights)
    assert isinstance(ours, ResidualCodebooks)
    sizes = {"dim": DIM, "num_quantizers": 3, "codebook_size": 16, "rotation_trick": False}
    if name == "residual":
        keys = {"learnable_codebook": True, "ema_update": False, "commitment_weight": 0.7}
        theirs = library.ResidualVQ(**sizes, **keys)
    else:
        theirs = library.ResidualSimVQ(**sizes, commitment_weight=0.7)
    theirs.load_state_dict(ours.module.state_dict())
    left, right = drawn(200).requires_grad_(), drawn(200).requires_grad_()
    found = ours(left)
    vectors, index, losses = theirs.train()(right[None])
    agreement(found.codes, index[0])
    agreement(found.vectors, vectors[0])
    agreement(ours.lookup(found.codes), theirs.get_output_from_indices(index)[0])
    # The library's codes and vectors share one term, which sends a gradient to both.
    share = 1.0 if name == "residual" else 1.25
    agreement(found.aux["codebook"] * share, losses.sum())
    torch.stack(list(found.aux.values())).sum().backward()
    losses.sum().backward()
    agreement(left.grad, right.grad)
    for mine, other in zip(ours.module.parameters(), theirs.parameters(), strict=True):
        agreement(mine.grad, other.grad)


@pytest.mark.agrees(
    "residual finite scalar quantiser: codes, vectors, gradient", "vector-quantize-pytorch", 1e-5
)
def test_stages_of_rounding_are_the_librarys(agreement: Agreement) -> None:
    ours = build("residual fsq", stages=3)
    theirs = library.ResidualFSQ(levels=[4, 3, 2, 5], num_quantizers=3)
    left, right, weight = drawn(200).requires_grad_(), drawn(200).requires_grad_(), drawn(200, 1)
    found = ours(left)
    vectors, index = theirs(right[None])
    agreement(found.codes, index[0])
    agreement(found.vectors, vectors[0])
    agreement(ours.lookup(found.codes), theirs.get_output_from_indices(index)[0])
    for value, leaf in ((found.vectors, left), (vectors[0], right)):
        (value * weight).sum().backward()
        assert leaf.grad is not None and leaf.grad.any()
    agreement(left.grad, right.grad)


def test_a_product_is_the_librarys_groups() -> None:
    torch.manual_seed(0)
    ours, x = build("product residual"), drawn(100)
    keys = {"learnable_codebook": True, "ema_update": False}
    theirs = library.GroupedResidualVQ(dim=DIM, groups=2, num_quantizers=2, codebook_size=8, **keys).eval()
    for part, group in zip(ours.parts, theirs.rvqs, strict=True):
        group.load_state_dict(part.module.state_dict())
    vectors, index, _ = theirs(x[None])
    found = ours(x)
    assert torch.equal(found.codes, index[:, 0].movedim(0, 1).flatten(1))
    torch.testing.assert_close(found.vectors, vectors[0])


@pytest.mark.parametrize("name", NAMES)
def test_chunks_of_rows_are_the_whole(name: str) -> None:
    """Codes, vectors, counts, losses and gradients; nothing is drawn and no state moves."""
    torch.manual_seed(0)
    quantizer, x = build(name), drawn(70)
    x[5], x[61, 2] = torch.nan, torch.inf
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    random = torch.get_rng_state()
    found = []
    for parts in ([x], [x[:7], x[7:7], x[7:]]):
        quantizer.zero_grad()
        loss, codes, vectors, counts = torch.zeros(()), [], [], 0
        leaf = torch.cat(parts).requires_grad_()
        for part in leaf.split([len(part) for part in parts]):
            each = quantizer(part)
            for key, value in each.aux.items():
                half = part[:, : DIM // 2] if key.startswith("0.") else part[:, DIM // 2 :]
                rows = half if name.startswith("product") else part
                loss = loss + value * rows.isfinite().all(-1).sum()
            loss = loss + (each.vectors.nan_to_num() * torch.arange(DIM)).sum()
            codes.append(each.codes)
            vectors.append(each.vectors)
            counts = counts + torch.cat(list(each.tally.sums.values()))
        assert loss.isfinite()
        loss.backward()
        gradients = [leaf.grad, *(parameter.grad for parameter in quantizer.parameters())]
        found.append((torch.cat(codes), torch.cat(vectors), counts, loss.detach(), *gradients))
    (codes, vectors, *rest), (others, same, *again) = found
    assert torch.equal(codes, others) and (codes[5] == -1).all() and (codes[61] == -1).any()
    torch.testing.assert_close(vectors, same, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(rest, again)
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, state[key]), key


def plain_stages(x: torch.Tensor, tables: list[torch.Tensor]) -> torch.Tensor:
    """Codes (N, Q) in float64."""
    left, found = x.double(), []
    for table in tables:
        found.append((left[:, None] - table.double()).square().sum(-1).argmin(1))
        left = left - table.double()[found[-1]]
    return torch.stack(found, 1)


@pytest.mark.parametrize(("initialise", "make"), [("kmeans", kmeans), ("data", data_rows)])
def test_each_stage_begins_with_what_is_left_of_the_data(initialise: str, make) -> None:  # type: ignore[no-untyped-def]
    quantizer, x = build("residual", stages=3, codes=16, initialise=initialise), 300 + drawn(100)
    quantizer.initialise(x)
    assert isinstance(quantizer, ResidualCodebooks)
    tables, left = quantizer.tables(), x
    for table in tables:
        torch.testing.assert_close(table, make(left, 16))
        left = left - table[plain_stages(left, [table])[:, 0]]
    fresh = 300 + drawn(100, 1)  # distances in float32 would lose their digits here
    assert torch.equal(quantizer(fresh).codes, plain_stages(fresh, tables))
    assert quantizer(x).report["error"] < 0.5 * (x - x.mean(0)).square().mean()


def test_of_equal_codes_the_first_is_taken_in_each_stage() -> None:
    quantizer = build("residual")
    assert isinstance(quantizer, ResidualCodebooks)
    with torch.no_grad():
        for layer in quantizer.module.layers:
            layer.codebook = layer.codebook[[0, 1, 2, 3, 0, 1, 2, 3]]
    found = quantizer(drawn(100)).codes
    assert found.max() == 3 and found.min() == 0


def test_frozen_codes_of_simvq_are_not_data() -> None:
    quantizer = build("residual simvq")
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.initialise(drawn(50))
    assert all(torch.equal(value, state[key]) for key, value in quantizer.state_dict().items())
    config = VqConfig(channels=DIM, quantizer={"kind": "library", "name": "ResidualSimVQ", "codes": 8})
    assert VqBottleneck(config, TINY_DIMS).calibration_rows == 0


def test_rounding_is_built_where_the_network_is() -> None:
    with torch.device("meta"):
        quantizer = build("residual fsq")
    assert isinstance(quantizer, ResidualLevels)
    assert {value.device.type for value in quantizer.module.buffers()} == {"meta"}


def test_a_collapse_names_group_and_stage(caplog: pytest.LogCaptureFixture) -> None:
    each = {"kind": "library", "name": "ResidualVQ", "codes": 64, "stages": 2, "window": 2}
    quantizer = build("product residual", each=each)
    for index in range(3):
        quantizer.after_step(quantizer(torch.ones(9, DIM)).tally, index)
    names = {record.message.split(":")[0] for record in caplog.records}
    assert names == {f"codebook {group} {stage}" for group in (0, 1) for stage in (0, 1)}


def test_every_class_of_the_library_is_offered_or_refused_with_a_reason() -> None:
    classes = {name for name, value in vars(library).items() if inspect.isclass(value)} - {"Sequential"}
    refused = set(get_args(LeftOutConfig.model_fields["name"].annotation))
    assert classes == OURS | refused
    for name in refused:
        with pytest.raises(ValidationError, match=f"{name} of vector-quantize-pytorch .*(kind|name) = "):
            VqConfig(quantizer={"kind": "library", "name": name, "anything": 1})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('name = "ResidualVQ", quantize_dropout = true', "quantizer.quantize_dropout  unknown key"),
        ('name = "ResidualVQ", stages = "3"', 'quantizer.stages  expected an integer, got the string "3"'),
        (
            'name = "ResidualFSQ", levels = [1, 8]',
            "quantizer.levels[0]  should be greater than or equal to 2",
        ),
        ('name = "FSQ", levels = [8]', 'quantizer  FSQ of vector-quantize-pytorch is kind = "fsq"'),
        ('name = "ResidualVq"', 'quantizer  unknown name "ResidualVq"; did you mean "ResidualVQ"?'),
        ("stages = 2", "quantizer  missing; the key name says what the table is"),
    ],
)
def test_a_wrong_table_is_one_line(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    bottleneck = f'use = "vq"\nchannels = 2\nquantizer = {{ kind = "library", {table} }}\n'
    path.write_text(RECIPE.replace('use = "linear"\nchannels = 4\n', bottleneck, 1))
    result = CliRunner().invoke(main, ["validate", str(path)])
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if "tiny.toml:" in line]
    assert len(lines) == 1 and message in lines[0], result.output


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    config = VqConfig(channels=DIM, quantizer={"kind": "library", "name": "ResidualVQ"})
    with pytest.raises(
        UsageError, match=r"bottleneck: quantizer ResidualVQ needs .*vtp-core\[vq-library\]'$"
    ):
        VqBottleneck(config, TINY_DIMS)
