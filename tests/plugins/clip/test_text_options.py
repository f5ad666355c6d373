"""Options of the text tower beyond CLIP's own, against open_clip, and in the objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.agreement import Agreement
from tests.plugins.clip.test_clip_text import NAMES
from vtp_core.errors import UsageError
from vtp_core.testing import TINY_DIMS, check_objective
from vtp_plugins.clip.config import ClipConfig
from vtp_plugins.clip.objective import Clip
from vtp_plugins.clip.text import TextTower

SMALL: dict[str, Any] = {"use": "clip", "view": "main", "width": 8, "depth": 1, "heads": 2, "context": 6}


@pytest.mark.agrees("text tower: pooling, projection, scales, width", "open_clip_torch", 1e-4, relative=True)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"causal": False}, {"no_causal_mask": True}),
        ({"pool": "first", "causal": False}, {"pool_type": "first", "no_causal_mask": True}),
        ({"pool": "last"}, {"pool_type": "last"}),
        ({"projection": "biased"}, {"proj_bias": True}),
        ({"projection": "none", "embedding": 24}, {"proj_type": "none"}),
        ({"layer_scale": 0.5, "mlp_ratio": 2.0}, {"ls_init_value": 0.5, "mlp_ratio": 2.0}),
    ],
)
def test_as_open_clip(ours: dict[str, Any], theirs: dict[str, Any], agreement: Agreement) -> None:
    from open_clip.transformer import TextTransformer

    other = TextTransformer(
        **{"context_length": 9, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2, "output_dim": 10}
        | theirs
    )
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(std=0.3)
    sizes = {"width": 24, "heads": 3, "depth": 2, "context": 9, "vocabulary": 50, "embedding": 10}
    tower = TextTower(**sizes | ours)
    state = dict(other.state_dict())
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            first, *rest = name.split(".")
            if first == "blocks" and rest[1].startswith("scale"):
                published = f"transformer.resblocks.{rest[0]}.ls_{rest[1][-1]}.gamma"
            elif first == "blocks":
                joint = "_" if rest[1] == "qkv" else "."
                published = f"transformer.resblocks.{rest[0]}.{NAMES[rest[1]]}{joint}{rest[2]}"
            else:
                starts = {"positions": "positional_embedding", "norm": "ln_final"}
                starts["projection"] = "text_projection"
                published = ".".join([starts.get(first, first), *rest])
            bare = published not in state  # a matrix, applied from the right
            parameter.copy_(state[published.removesuffix(".weight")].T if bare else state[published])
    ids = torch.randint(1, 50, (4, 9))
    agreement(tower.project(ids), other(ids))


def test_without_pooling_each_token_is_embedded() -> None:
    tower = TextTower(width=8, depth=1, heads=2, context=6, embedding=5, vocabulary=20, pool="none")
    ids = torch.randint(0, 20, (3, 6))
    embedded = tower(ids)
    assert embedded.shape == (3, 6, 5)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(3, 6))
    last = TextTower(width=8, depth=1, heads=2, context=6, embedding=5, vocabulary=20, pool="last")
    last.load_state_dict(tower.state_dict())
    torch.testing.assert_close(last(ids), embedded[:, -1])


def test_captions_need_clips_vocabulary() -> None:
    tower = TextTower(width=8, depth=1, heads=2, context=6, embedding=5, vocabulary=20)
    with pytest.raises(UsageError, match="20 tokens are not CLIP's vocabulary"):
        tower(["a ring"])


def test_the_objective_takes_them() -> None:
    config = ClipConfig(
        **SMALL, causal=False, layer_scale=0.1, pool="last", projection="biased", vocabulary=49500
    )
    objective = Clip(config, TINY_DIMS)
    assert objective.text.token_embedding.num_embeddings == 49500
    assert not objective.text.blocks[0].causal and objective.text.pool == "last"
    assert objective.text.projection.bias is not None and objective.text.blocks[0].scale1 is not None
    check_objective(Clip, config, ranks=1)


def test_no_projection_keeps_the_width() -> None:
    with pytest.raises(ValidationError, match="keeps the text tower's width"):
        ClipConfig(**SMALL, projection="none", embedding=5)
    with pytest.raises(ValueError, match="8 wide, not 5"):
        TextTower(width=8, depth=1, heads=2, context=6, embedding=5, projection="none")


def test_merges_make_a_small_token_table() -> None:
    config = ClipConfig(**SMALL | {"context": 12}, merges=100)
    assert config.tokens == 614
    objective = Clip(config, TINY_DIMS)
    assert objective.text.token_embedding.num_embeddings == 614
    embedded = objective.text(["A drawing of animals.", "\u2603"])
    assert embedded.shape == (2, 8) and torch.isfinite(embedded).all()
    assert ClipConfig(**SMALL).tokens == 49408
    with pytest.raises(ValidationError, match="leave vocabulary out"):
        ClipConfig(**SMALL, merges=100, vocabulary=700)
