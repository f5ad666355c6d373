"""The text tower of a whole open_clip model read into ours by `[objectives.clip] weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.agreement import Agreement
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_plugins.clip.config import ClipConfig
from vtp_plugins.clip.objective import Clip

DIMS = Dims(width=8, patch=4, depth=1, has_cls=True, channels=4)
CAPTIONS = ["A photo of Ångström's café", "", "two words " * 20]
VISION = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32}
TEXT: dict[str, Any] = {"context_length": 12, "width": 16, "heads": 2, "layers": 2}
OURS: dict[str, Any] = {
    "use": "clip",
    "view": "image",
    "width": 16,
    "heads": 2,
    "depth": 2,
    "context": 12,
    "embedding": 10,
}
KINDS: dict[str, tuple[type[torch.nn.Module], dict[str, Any], dict[str, Any]]] = {
    "CLIP": (open_clip.CLIP, {}, {}),
    "OpenAI's activation": (open_clip.CLIP, {"quick_gelu": True}, {"quick_gelu": True}),
    "a tower of its own": (open_clip.CustomTextCLIP, {}, {}),
}


def theirs(kind: str, **text: Any) -> Any:
    torch.manual_seed(0)
    cls, extra, _ = KINDS[kind]
    model = cls(embed_dim=10, vision_cfg=VISION, text_cfg={**TEXT, **text}, **extra).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.2)
    return model


def stored(model: Any, path: Path) -> Path:
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path
        )
    return path


@pytest.mark.agrees("text embeddings of open_clip models read into our tower", "open_clip_torch", 1e-5)
@pytest.mark.parametrize(("kind", "suffix"), list(zip(KINDS, (".safetensors", ".pt", ".pt"), strict=True)))
def test_equal_embeddings(kind: str, suffix: str, tmp_path: Path, agreement: Agreement) -> None:
    model = theirs(kind)
    path = stored(model, tmp_path / f"model{suffix}")
    ours = Clip(ClipConfig.model_validate({**OURS, **KINDS[kind][2], "weights": str(path)}), DIMS).eval()
    with torch.no_grad():
        ids = open_clip.tokenize(CAPTIONS, context_length=12)
        agreement(ours.text(CAPTIONS), model.encode_text(ids, normalize=True))


def test_an_artefact_and_a_plan_read_no_file(tmp_path: Path) -> None:
    table = ClipConfig.model_validate({**OURS, "weights": str(tmp_path / "gone.pt")})
    assert Clip(table.restored(), DIMS).text.positions.shape == (12, 16)
    with torch.device("meta"):
        Clip(table, DIMS)
    with pytest.raises(UsageError, match=r"gone\.pt: no such file"):
        Clip(table, DIMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "ours", "message"),
    [
        ({}, {"depth": 1}, r"has transformer\.resblocks\.1\..* more"),
        ({}, {"depth": 3}, r"lacks transformer\.resblocks\.2\."),
        ({}, {"context": 8}, r"positional_embedding is \(12, 16\), not \(8, 16\)"),
        ({"ls_init_value": 0.1}, {}, r"has transformer\.resblocks\.0\.ls_1\.gamma more"),
    ],
)
def test_other_sizes_are_named(
    text: dict[str, Any], ours: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = stored(theirs("CLIP", **text), tmp_path / "model.safetensors")
    found = "has width = 16, depth = 2, context = 12, vocabulary = 49408, embedding = 10; "
    with pytest.raises(UsageError, match=f"{found}{message}"):
        Clip(ClipConfig.model_validate({**OURS, **ours, "weights": str(path)}), DIMS)


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other\.safetensors: has no text tower of open_clip"):
        Clip(ClipConfig.model_validate({**OURS, "weights": str(tmp_path / "other.safetensors")}), DIMS)
