"""The text tower and its tokenizer against open_clip and the published parity fixture."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.agreement import Agreement
from vtp_core.features import Features, Tokens
from vtp_plugins.clip.image import ImageHead
from vtp_plugins.clip.text import TextTower
from vtp_plugins.clip.tokenizer import VOCABULARY, CaptionTokenizer

FIXTURE = Path(__file__).parents[2] / "data" / "vtp_tiny_a"
NAMES = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "qkv": "attn.in_proj",
    "proj": "attn.out_proj",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}
"""Ours -> the published names within a block."""


_tokenizer = cache(CaptionTokenizer)  # it reads the file of its merges


def _published(tower: TextTower, blocks: str) -> dict[str, str]:
    """Our parameter -> the published name; the projection is a matrix there, applied from the right."""
    names = {"token_embedding.weight": "token_embedding.weight", "positions": "positional_embedding"}
    names |= {"norm.weight": "ln_final.weight", "norm.bias": "ln_final.bias"}
    names |= {"projection.weight": "text_projection"}
    for name in tower.state_dict():
        if name.startswith("blocks."):
            _, index, layer, kind = name.split(".")
            joint = "_" if layer == "qkv" else "."
            names[name] = f"{blocks}.resblocks.{index}.{NAMES[layer]}{joint}{kind}"
    return names


def _load(tower: TextTower, state: dict[str, Tensor], blocks: str) -> None:
    names = _published(tower, blocks)
    tower.load_state_dict(
        {
            ours: state[theirs].T if theirs == "text_projection" else state[theirs]
            for ours, theirs in names.items()
        }
    )


@pytest.mark.skipif(not FIXTURE.is_dir(), reason="no parity fixture in tests/data")
def test_the_published_fixture() -> None:
    state, io = load_file(FIXTURE / "model.safetensors"), load_file(FIXTURE / "io.safetensors")
    tower = TextTower(width=48, depth=2, heads=4, context=16, embedding=48, vocabulary=300)
    _load(tower, state, "text_transformer")
    torch.testing.assert_close(
        tower.project(io["in.text_tokens"]), io["out.clip_text_raw"], rtol=0, atol=1e-5
    )
    embedded = tower(io["in.text_tokens"])
    torch.testing.assert_close(embedded, io["out.clip_text"], rtol=0, atol=1e-5)

    head = ImageHead(64, 48, "cls")
    head.load_state_dict({"projection.weight": state["visual_proj.weight"]})
    for image in (0, 1):
        got = head(io[f"out.last.full.cls.{image}"].unsqueeze(1))
        torch.testing.assert_close(got, io[f"out.clip_image.{image}"], rtol=0, atol=1e-5)
    logits = state["logit_scale"].exp() * io["out.clip_image.0"] @ embedded.T
    torch.testing.assert_close(logits, io["out.logits_per_image"], rtol=0, atol=1e-3)


@pytest.mark.agrees("text tower of CLIP", "open_clip_torch", 1e-4, relative=True)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clips_tower(quick_gelu: bool, agreement: Agreement) -> None:
    from open_clip.transformer import QuickGELU, TextTransformer

    act = QuickGELU if quick_gelu else nn.GELU
    theirs = TextTransformer(
        context_length=12, vocab_size=50, width=24, heads=3, layers=3, output_dim=10, act_layer=act
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    tower = TextTower(
        width=24, depth=3, heads=3, context=12, embedding=10, vocabulary=50, quick_gelu=quick_gelu
    )
    _load(tower, dict(theirs.state_dict()), "transformer")
    ids = torch.randint(1, 48, (5, 12))
    for row, end in enumerate((11, 3, 7, 1, 6)):
        ids[row, end], ids[row, end + 1 :] = 49, 0
    agreement(tower.project(ids), theirs(ids))


def test_later_tokens_change_nothing() -> None:
    tower = TextTower(width=16, depth=2, heads=2, context=8, embedding=4, vocabulary=20)
    ids = torch.tensor([[18, 3, 4, 19, 0, 0, 0, 0]])
    other = ids.clone()
    other[0, 4:] = 7
    torch.testing.assert_close(tower(ids), tower(other), rtol=0, atol=0)
    assert tower(ids).norm(dim=1).item() == pytest.approx(1)


def test_captions_and_their_ids_give_the_same_embedding() -> None:
    tower = TextTower(width=8, depth=1, heads=1, context=9, embedding=5).eval()
    captions = ["a red ring", ""]
    ids = tower.tokenizer(captions)
    assert torch.equal(tower(captions), tower(ids)) and tower(captions).shape == (2, 5)


@pytest.mark.agrees("token ids of captions", "open_clip_torch", 0)
def test_the_token_ids_are_open_clips(agreement: Agreement) -> None:
    from open_clip import tokenize

    captions = ["a red ring on a white background", "Déjà vu &amp; <b>42</b>  times!", "", "don't", "日本語"]
    captions.append("word " * 200)
    for context in (77, 12):
        agreement(_tokenizer(context)(captions), tokenize(captions, context_length=context))


BAD = {
    "empty": "",
    "blank": " \n\t ",
    "null bytes": "a\x00b\x00",
    "one megabyte of words": "lorem ipsum " * 90_000,
    "one word of a megabyte": "abcdefghijklmnopqrstuvwxyz" * 40_000,
    "a megabyte of blanks": " " * 1_000_000 + "end",
    "half a surrogate pair": "a \ud800 b",
    "right to left": "\u202eשלום",
    "special tokens": "<end_of_text> <start_of_text> x",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("caption", BAD.values(), ids=BAD.keys())
def test_bad_captions_become_valid_ids(caption: str) -> None:
    ids = _tokenizer(16)([caption, "a dog"])
    assert ids.shape == (2, 16) and ids.dtype == torch.int64
    assert ids.min() >= 0 and ids.max() == VOCABULARY - 1
    assert ids[0, 0] == VOCABULARY - 2 and VOCABULARY - 1 in ids[0]
    tower = TextTower(width=8, depth=1, heads=1, context=16, embedding=4)
    assert torch.isfinite(tower(ids)).all()


@given(st.text(max_size=40))
def test_any_text_is_taken(caption: str) -> None:
    ids = _tokenizer(7)([caption])
    assert ids.shape == (1, 7) and int(ids[0, 0]) == VOCABULARY - 2
    assert int(ids.max()) == VOCABULARY - 1


@given(st.text(max_size=40), st.integers(0, 2000))
def test_a_cut_encoding_is_a_coarser_one(caption: str, merges: int) -> None:
    """Same text, spelt with the first merges only; ids stay below merges + 514 and the last one ends it."""
    cut, whole = CaptionTokenizer(200, merges), _tokenizer(200)
    spelling = {number: token for token, number in whole.encoding.encoder.items()}

    def spelt(ids: torch.Tensor, end: int) -> str:
        inner = ids[0, 1 : int((ids[0] == end).nonzero()[0])]
        return "".join(spelling[int(number)] for number in inner)

    ids, reference = cut([caption]), whole([caption])
    assert int(ids.max()) == merges + 513 and int(ids[0, 0]) == merges + 512
    assert spelt(ids, merges + 513) == spelt(reference, VOCABULARY - 1)
    assert (ids != 0).sum() >= (reference != 0).sum()


def test_a_cut_encoding_falls_back_to_bytes() -> None:
    ids = CaptionTokenizer(16, merges=0)(["Hi é"])
    letters = CaptionTokenizer(16).encoding.encoder
    expected = [512, letters["h"], letters["i</w>"], letters["Ã"], letters["©</w>"], 513]
    assert ids[0, :6].tolist() == expected and not ids[0, 6:].any()
    with pytest.raises(ValueError, match="merges must be 0 to 48894"):
        CaptionTokenizer(16, merges=48_895)


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtp_plugins.clip import tokenizer

    monkeypatch.setattr(tokenizer, "REMEMBERED_WORDS", 10)
    captions = CaptionTokenizer(8)
    first = captions(["word" + "x" * i for i in range(50)])
    captions(["again"])
    assert len(captions.encoding.cache) < 10
    assert torch.equal(captions(["word" + "x" * i for i in range(50)]), first)


def test_image_head_reads_class_token_or_mean() -> None:
    tokens = Tokens(patches=torch.randn(3, 2, 4, 6), grid=(2, 2), cls=torch.randn(3, 2, 6))
    features = Features(crops={"global": tokens})
    assert tokens.cls is not None
    for kind, expected in (("cls", tokens.cls[:, 0]), ("pooled", tokens.patches[:, 0].mean(1))):
        head = ImageHead(6, 5, kind)  # type: ignore[arg-type]
        embedded = nn.functional.normalize(expected @ head.projection.weight.T, dim=1)
        torch.testing.assert_close(head(features), embedded)
        torch.testing.assert_close(head(head.tokens(features)), embedded)
    with pytest.raises(ValueError, match="features = 'pooled'"):
        ImageHead(6, 5, "cls")(Features(crops={"global": Tokens(patches=tokens.patches, grid=(2, 2))}))
