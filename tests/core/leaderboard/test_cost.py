"""Sizes, FLOPs and rates of a tokenizer."""

from __future__ import annotations

import math

import pytest
import torch

from vtp_core import load
from vtp_core.errors import UsageError
from vtp_core.leaderboard.cost import Cost, count_cost, with_rates
from vtp_core.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def nano() -> tuple[Tokenizer, Cost]:
    model = load("vtp-nano")
    return model, with_rates(count_cost(model), model)


def test_sizes_are_those_of_the_networks(nano: tuple[Tokenizer, Cost]) -> None:
    model, cost = nano
    parts = (*model.encoder.parameters(), *model.bottleneck.parameters())
    assert cost.encoder_parameters == sum(math.prod(p.shape) for p in parts)
    assert cost.decoder_parameters == sum(math.prod(p.shape) for p in model.decoder.parameters())
    assert (cost.latent, cost.tokens, cost.bits) == ((32, 8, 8), 64, 32 * 64 * 16)
    assert (
        cost.encode_rate is not None
        and cost.encode_rate > 0
        and cost.decode_rate is not None
        and cost.decode_rate > 0
    )


def test_flops_are_those_of_layers_and_attention(nano: tuple[Tokenizer, Cost]) -> None:
    """By formula: 2 for a multiply-add of linear layers, patch embedding and attention."""
    model, cost = nano
    tokens, layers = 65, 0  # a class token and the grid
    for module in (*model.encoder.modules(), *model.bottleneck.modules()):
        if isinstance(module, torch.nn.Linear):
            layers += 2 * tokens * module.in_features * module.out_features
        elif isinstance(module, torch.nn.Conv2d):
            layers += 2 * 64 * module.out_channels * module.in_channels * math.prod(module.kernel_size)
    blocks = len(model.encoder.blocks())
    attention = blocks * 4 * tokens * tokens * model.encoder.width
    assert cost.encode_flops == pytest.approx(layers + attention, rel=0.01)


def test_a_tokenizer_without_config_is_refused(nano: tuple[Tokenizer, Cost]) -> None:
    model, _ = nano
    bare = Tokenizer(model.encoder, model.bottleneck, model.decoder)
    with pytest.raises(UsageError, match="no config"):
        count_cost(bare)
