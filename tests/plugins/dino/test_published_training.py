"""DINO, MIM and KoLeo on the published student and teacher (random weights) against DINOv2's losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.agreement import Agreement
from vtp_core.batch import Batch, Masks
from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.ops import attention_choice
from vtp_core.parameters import Dims
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.groups import build_groups, group_needs
from vtp_core.training.networks import Networks
from vtp_core.training.optim.ema import Ema
from vtp_core.training.ranks.world import World
from vtp_plugins.dino.config import DinoConfig
from vtp_plugins.dino.distillation import log_sum
from vtp_plugins.dino.objective import Dino
from vtp_plugins.dino.sinkhorn import sinkhorn
from vtp_plugins.koleo.config import KoleoConfig
from vtp_plugins.koleo.objective import Koleo
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.mim.config import MimConfig
from vtp_plugins.mim.objective import Mim
from vtp_plugins.vit.config import VitDecoderConfig, VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder

FOLDER = Path(__file__).resolve().parents[2] / "data" / "vtp_tiny_a"
DIMS = Dims(width=64, patch=16, depth=3, has_cls=True, channels=16)
TRUNK, HEAD, PROTOTYPES = "tokenizer.encoder", "objectives.dino.head", "objectives.dino.prototypes"


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix).replace("blocks.", "block.", 1): value
        for key, value in state.items()
        if key.startswith(prefix) and "feature_bottleneck" not in key
    }


def load(modules: dict[str, nn.Module], trunk: dict[str, Tensor], head: dict[str, Tensor], who: str) -> None:
    modules[TRUNK].load_state_dict(below(trunk, f"{who}trunk."))
    weights = below(head, f"{who}dino_head.")
    modules[HEAD].load_state_dict({k: v for k, v in weights.items() if k.startswith("mlp")})
    last = {k.removeprefix("last_layer."): v for k, v in weights.items() if k.startswith("last_layer")}
    modules[PROTOTYPES].load_state_dict(last)


@dataclass
class Joint:
    """The three objectives on the fixture's step."""

    networks: Networks
    ema: Ema
    steps: dict[str, EngineStep]
    losses: dict[str, Losses]


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return load_file(FOLDER / "train_io.safetensors")


def run(given: dict[str, Tensor], targets: str, microbatch_rows: int | None = None) -> Joint:
    sizes = {"width": 64, "heads": 2, "rope_dtype": "bfloat16", "rope_periods_saved": True}
    temperature = {"teacher_temperature": 0.07, "targets": targets, "prototypes": 160}
    table = {"use": "dino", "view": "ssl", "head_hidden": 64, "head_width": 32, **temperature}
    objectives: dict[str, Objective] = {
        "dino": Dino(DinoConfig(**table), DIMS),
        "mim": Mim(MimConfig(use="mim", view="ssl", share_head_with="dino", **temperature), DIMS),
        "koleo": Koleo(KoleoConfig(use="koleo", view="ssl"), DIMS),
    }
    encoder = VitEncoder(VitEncoderConfig(depth=3, **sizes))
    # The fixture's own: behind tables in bfloat16 the last bit of another implementation turns roundings.
    encoder.use_attention(attention_choice("sdpa"))
    networks = Networks(
        encoder=encoder,
        bottleneck=LinearBottleneck(LinearConfig(channels=16), DIMS),
        decoder=VitDecoder(VitDecoderConfig(depth=2, **sizes), DIMS),
        objectives=objectives,
    )
    students = {name: networks.named(name) for name in (TRUNK, HEAD, PROTOTYPES)}
    extra = load_file(FOLDER / "train_extra.safetensors")
    load(students, load_file(FOLDER / "model.safetensors"), extra, "")
    ema = Ema(students, 0.9)
    load(ema.modules, extra, extra, "teacher_")
    networks.ema = ema.modules

    mask = given["in.masks"].view(2, 3, 16).transpose(0, 1)  # the fixture has the crop first
    crops = {
        "global": given["in.global_crops"].unflatten(0, (2, 3)).transpose(0, 1),
        "local": given["in.local_crops"].unflatten(0, (4, 3)).transpose(0, 1),
    }
    weight = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    batch = Batch(crops=crops, keys=("a", "b", "c"), masks=Masks(mask=mask, weight=weight), rows=3)
    needs = {name: objective.views() for name, objective in objectives.items()}
    (group,) = build_groups(needs)
    options = ForwardOptions(total=10, microbatch_rows=microbatch_rows)
    forwards = Forwards(networks, World(), {"ssl": batch}, group_needs(needs, group.objectives), options, 0)
    steps = {name: EngineStep(forwards, name, needs[name]) for name in objectives}
    losses = {name: objective(steps[name]) for name, objective in objectives.items()}
    return Joint(networks, ema, steps, losses)


def test_masks_weigh_as_published(given: dict[str, Tensor]) -> None:
    batch = run(given, "sinkhorn").steps["mim"].batch("ssl")
    assert batch.masks is not None
    crop_first = batch.masks.weight.transpose(0, 1).flatten()
    torch.testing.assert_close(crop_first[given["in.mask_indices"]], given["in.masks_weight"])


@pytest.mark.agrees(
    "losses of DINO, iBOT and KoLeo", "MiniMax-AI/VTP", 1e-3, version="fixture vtp_tiny_a", relative=True
)
@pytest.mark.parametrize("microbatch_rows", [None, 2])
@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_losses_are_those_of_dinov2(
    given: dict[str, Tensor], targets: str, microbatch_rows: int | None, agreement: Agreement
) -> None:
    joint = run(given, targets, microbatch_rows)
    name = "out.loss.sinkhorn" if targets == "sinkhorn" else "out.loss.centering0"
    dino, mim, koleo = (joint.losses[objective] for objective in ("dino", "mim", "koleo"))
    found = {
        f"{name}.dino_global": dino.report["global"],
        f"{name}.dino_local": dino.report["local"],
        f"{name}.ibot": mim.terms["distillation"],
        "out.loss.koleo_sum_unweighted": koleo.terms["spread"],
    }
    for key, value in found.items():
        agreement(value.item(), given[key].item())
    parts = dino.report["global"] + dino.report["local"]
    assert dino.terms["distillation"].item() == pytest.approx(parts.item(), rel=1e-6)


@pytest.mark.agrees("DINO heads: scores", "MiniMax-AI/VTP", 1e-4, version="fixture vtp_tiny_a")
@pytest.mark.agrees(
    "DINO targets: Sinkhorn-Knopp, centring", "MiniMax-AI/VTP", 3e-3, version="fixture vtp_tiny_a"
)
def test_scores_and_targets_are_those_of_dinov2(given: dict[str, Tensor], agreement: Agreement) -> None:
    joint = run(given, "sinkhorn")
    step, head = joint.steps["dino"], joint.networks.named(HEAD)
    prototypes = joint.networks.named(PROTOTYPES)
    with torch.no_grad():
        own = prototypes(torch.arange(160))
        student, teacher = step.encode("ssl", masked=True), step.teacher.encode("ssl")
        mask = step.batch("ssl").masks
        assert mask is not None and student["local"].cls is not None
        rows = {
            "student_global_cls_tokens": student.cls,
            "student_local_cls_tokens": student["local"].cls,
            "student_global_masked_patch_tokens": student.patches.transpose(0, 1)[mask.mask.transpose(0, 1)],
        }
        for name, tokens in rows.items():
            crop_first = tokens.transpose(0, 1).flatten(0, 1) if tokens.ndim == 3 else tokens
            found = head(crop_first) @ own.T
            agreement(found, given[f"out.{name}_after_head"], "DINO heads: scores")
        teacher_head, others = step.teacher.own(head), step.teacher.own(prototypes)(torch.arange(160))
        swapped = teacher_head(teacher.cls.transpose(0, 1).flip(0).flatten(0, 1))
        patches = teacher_head(teacher.patches.transpose(0, 1)[mask.mask.transpose(0, 1)])
        for kind, unit, published in (
            ("cls", swapped, "teacher_cls_tokens_after_head"),
            ("patch", patches, "masked_teacher_patch_tokens_after_head"),
        ):
            agreement(unit @ others.T, given[f"out.{published}"], "DINO heads: scores")
            offset = sinkhorn(unit, others, 0.07, lambda x: log_sum(step, x)).offset
            alone = sinkhorn(unit, others, 0.07)
            torch.testing.assert_close(alone.offset, offset, rtol=1e-5, atol=1e-5)
            for target, shift in (("sinkhorn", offset), ("centering0", torch.zeros(160))):
                found = (unit @ others.T / 0.07 + shift).softmax(1)
                expected = given[f"out.target.{target}.{kind}"]
                torch.testing.assert_close(found, expected, rtol=3e-3, atol=1e-6)
                agreement(found, expected, "DINO targets: Sinkhorn-Knopp, centring")


@pytest.mark.agrees(
    "DINO: one update of centre and teachers", "MiniMax-AI/VTP", 2e-5, version="fixture vtp_tiny_a"
)
def test_one_update_of_centre_and_teachers(given: dict[str, Tensor], agreement: Agreement) -> None:
    joint = run(given, "centering")
    dino, tally = joint.networks.objectives["dino"], joint.losses["dino"].tally
    assert tally is not None and isinstance(dino, Dino) and dino.centre is not None
    dino.after_step(tally, 0)
    agreement(dino.centre, given["out.center_after_one_update"][0])
    joint.ema.update(0, 10)
    mine = {
        "trunk.cls_token": joint.ema.modules[TRUNK].cls_token,
        "trunk.blocks.0.attn.qkv.weight": joint.ema.modules[TRUNK].get_parameter("block.0.attn.qkv.weight"),
        "dino_head.last_layer.weight_g": joint.ema.modules[PROTOTYPES].weight_g,
        "dino_head.last_layer.weight_v": joint.ema.modules[PROTOTYPES].weight_v,
    }
    for name, value in mine.items():
        expected = given[f"out.ema_m0.9.teacher_{name}"]
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-6)
        agreement(value, expected)
