"""Cut points by themselves: row slices, trees, gradients through inputs that are no leaves."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vtp_core.features import Tokens
from vtp_core.training.forward.cut import Cut, Part, even_split, join_rows, split_rows, take_rows


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 60) | st.none())
def test_row_slices_cover_the_rows_once_and_in_order(first, count, chunk):
    slices = split_rows(first, first + count, chunk)
    rows = [row for piece in slices for row in range(piece.start, piece.stop)]
    assert rows == list(range(first, first + count))
    assert len(slices) >= 1
    assert chunk is None or all(piece.stop - piece.start <= chunk for piece in slices)


@given(st.integers(0, 50), st.integers(1, 9))
def test_even_slices_are_as_many_as_asked_whatever_the_rows(rows, parts):
    slices = even_split(rows, parts)
    assert len(slices) == parts
    assert [row for piece in slices for row in range(piece.start, piece.stop)] == list(range(rows))
    sizes = [piece.stop - piece.start for piece in slices]
    assert max(sizes) - min(sizes) <= 1


def test_trees_are_cut_and_joined_with_their_constants():
    tokens = Tokens(patches=torch.randn(5, 1, 4, 3), grid=(2, 2), layers={1: torch.randn(5, 1, 4, 3)})
    parts = [take_rows(tokens, piece) for piece in split_rows(0, 5, 2)]
    joined = join_rows(parts)
    assert [len(part.patches) for part in parts] == [2, 2, 1]
    assert joined.grid == (2, 2)
    assert joined.cls is None
    torch.testing.assert_close(joined.layers[1], tokens.layers[1], rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [None, 2, 3])
def test_gradients_reach_parameters_and_what_the_inputs_were_computed_from(chunk):
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    source = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def loss(outputs):
        return (outputs.sin() * torch.arange(5, dtype=torch.float64)[:, None]).sum()

    expected = torch.autograd.grad(loss(network(source * 2)), [source, network.weight])
    inputs = source * 2
    cut = Cut(
        lambda rows: Part(rows=network(rows[0])),
        (inputs,),
        split_rows(0, 5, chunk),
        seeded=lambda row: nullcontext(),
        trains=True,
    )
    torch.autograd.backward(loss(cut.outputs))
    cut.backward()
    torch.testing.assert_close(source.grad, expected[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(network.weight.grad, expected[1], rtol=0, atol=1e-14)


def test_a_frozen_network_without_upstream_gradient_makes_no_leaves():
    network = nn.Linear(3, 2).requires_grad_(False)
    cut = Cut(
        lambda rows: Part(rows=network(rows)),
        torch.randn(4, 3),
        [slice(0, 4)],
        seeded=lambda row: nullcontext(),
        trains=False,
    )
    assert not cut.outputs.requires_grad
    cut.backward()


@pytest.mark.parametrize("chunk", [None, 2])
def test_aux_terms_are_means_over_rows_and_train(chunk):
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    rows = torch.randn(5, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(0.5 * network(rows).square().mean(), network.weight)
    cut = Cut(
        lambda x: Part(rows=network(x), aux={"size": network(x).square().mean()}),
        rows,
        split_rows(0, 5, chunk),
        seeded=lambda row: nullcontext(),
        trains=True,
    )
    torch.testing.assert_close(cut.aux["size"], network(rows).square().mean().detach())
    cut.backward(aux_scale=0.5)
    torch.testing.assert_close(network.weight.grad, expected)
