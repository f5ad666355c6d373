"""Named protocols of FID: ours, and those of published tables. Imports no torch.

Sources are the owners' public code and the issues of their repositories. What they don't give is listed as
`unknown`; settings of ``imagenet256-rfid-v1`` are used in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation
from vtp_core.evaluation.sampling import Sampling

COMPAT = "inception-v3-compat"
PYTORCH_FID = "inception-v3-pytorch-fid"
INCEPTIONS = (COMPAT, PYTORCH_FID)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Hash of torch-fidelity's and pytorch-fid's file of the Inception network of December 2015."""
VALIDATION = "the images' own crops, all of ImageNet's validation set"
ADM = "the statistics in ADM's VIRTUAL_imagenet256_labeled.npz"


@dataclass(frozen=True, kw_only=True)
class FidProtocol(NamedProtocol):
    """A named protocol of a Fréchet distance.

    Attributes:
        metrics: What is measured, as `metrics` of a table names it.
        generated: Whether generated samples are measured, against saved statistics.
        double: Whether the network computes in float64.
    """

    extractor: str = COMPAT
    extractor_hash: str = INCEPTION_SHA256
    metrics: tuple[Literal["frechet", "kernel", "precision_recall"], ...] = ("frechet",)
    generated: bool = False
    double: bool = False


_DINO_TOK_UNKNOWN = ("crop and resize filter", "rounding to 8 bit", "extractor", "precision")
_VTP_TRAINING = "on the tokenizer's latents, 80 epochs of ImageNet, batch 1024, averaged weights (0.9999)"
_UNGUIDED: Sampling = {"guidance": 1.0, "balance": "uniform"}
"""Classes are drawn at random, all alike; no guidance."""

PROTOCOLS: Mapping[str, FidProtocol] = {
    protocol.name: protocol
    for protocol in (
        FidProtocol(
            name="imagenet256-rfid-v1",
            about="rFID of all of ImageNet's validation set at 256 px.",
            image_size=256,
            images=50_000,
            reference=VALIDATION,
            source="ours",
        ),
        FidProtocol(
            name="vtp-2512",
            about="rFID of VTP (arXiv 2512.13687 and its release).",
            image_size=256,
            images=50_000,
            preparation=Preparation(rounding="truncate", encode="bfloat16"),
            reference=VALIDATION,
            extractor=PYTORCH_FID,
            source="MiniMax-AI/VTP 6fa4e19, tools/test_reconstruction_hf.py",
        ),
        FidProtocol(
            name="vtp-2512-gfid10k-b",
            about="gFID-10k of VTP's small studies: LightningDiT-B.",
            image_size=256,
            images=10_000,
            preparation=Preparation(rounding="truncate"),
            reference=ADM,
            extractor=PYTORCH_FID,
            source="MiniMax-AI/VTP 6fa4e19, generation/",
            generated=True,
            # Their 50 steps are the times at which the solver gives its state; it chooses its own steps.
            sampling={"sampler": "dopri5", "rtol": 1e-3, "atol": 1e-6, **_UNGUIDED},
            conditions=(f"LightningDiT-B/1 {_VTP_TRAINING}",),
        ),
        FidProtocol(
            name="vtp-2512-gfid50k-xl",
            about="gFID-50k of VTP's main table: LightningDiT-XL.",
            image_size=256,
            images=50_000,
            preparation=Preparation(rounding="truncate"),
            reference=ADM,
            extractor=PYTORCH_FID,
            source="MiniMax-AI/VTP 6fa4e19, generation/",
            generated=True,
            # 250 points in time; their shift of 0.075 counts the other way.
            sampling={"sampler": "euler", "steps": 249, "shift": 1 / 0.075, **_UNGUIDED},
            conditions=(f"LightningDiT-XL/1 {_VTP_TRAINING}",),
        ),
        FidProtocol(
            name="lightningdit",
            about="rFID of VA-VAE (LightningDiT); 127.5 x + 128 truncated is rounding.",
            image_size=256,
            images=50_000,
            reference=VALIDATION,
            extractor=PYTORCH_FID,
            source="hustvl/LightningDiT, issue 7",
            unknown=("latent at its mode or sampled",),
        ),
        FidProtocol(
            name="lightningdit-gfid50k",
            about="gFID-50k of LightningDiT-XL without guidance.",
            image_size=256,
            images=50_000,
            reference=ADM,
            source="hustvl/LightningDiT, issues 21, 37 and 88",
            generated=True,
            # 250 points in time; their shift of 0.3 counts the other way. Their guidance acts on 3 channels
            # of 32, which no table here can ask for, so guided figures have no protocol.
            sampling={"sampler": "euler", "steps": 249, "shift": 1 / 0.3, **_UNGUIDED},
            conditions=("LightningDiT-XL/1 on VA-VAE's latents, averaged weights",),
            unknown=("the shift of its unguided figures",),
        ),
        FidProtocol(
            name="rae",
            about="rFID of RAE.",
            image_size=256,
            images=50_000,
            preparation=Preparation(rounding="truncate"),
            reference=VALIDATION,
            source="bytetriper/RAE 34b0679, issues 11 and 44",
            unknown=("the image's resize before its centre crop", "rounding of the reference"),
        ),
        FidProtocol(
            name="rae-gfid50k",
            about="gFID-50k of RAE without guidance (DiT-DH-XL on DINOv2-B).",
            image_size=256,
            images=50_000,
            preparation=Preparation(rounding="truncate"),
            reference=ADM,
            source="bytetriper/RAE 34b0679, src/sample_ddp.py and configs/, issues 30 and 58",
            generated=True,
            # 50 points in time in its configurations, by the issues 250 in its main table.
            sampling={
                "sampler": "euler",
                "steps": (49, 249),
                "shift": math.sqrt(768 * 16 * 16 / 4096),
                **_UNGUIDED,
            },
            conditions=("DiT-DH-XL on the latents of DINOv2-B, averaged weights",),
            unknown=("classes drawn or exactly alike",),
        ),
        FidProtocol(
            name="titok",
            about="rFID of TiTok and its family; Inception in float64.",
            image_size=256,
            images=50_000,
            preparation=Preparation(crop="shorter_side"),
            reference=VALIDATION,
            source="bytedance/1d-tokenizer 942a96f, evaluator/ and data/webdataset_reader.py",
            double=True,
            unknown=("precision of the tokenizer",),
        ),
        FidProtocol(
            name="dino-tok-2511",
            about="rFID of DINO-Tok's first version on ImageNet (AE 0.32, VQ 1.15).",
            image_size=256,
            images=50_000,
            reference=VALIDATION,
            source="MKJia/DINO-Tok 49fed4f, tables as pictures",
            unknown=(*_DINO_TOK_UNKNOWN, "reference set", "number of images"),
        ),
        FidProtocol(
            name="dino-tok-2603",
            about="rFID of DINO-Tok's revised version on ImageNet (AE 0.28, VQ 1.10).",
            image_size=256,
            images=50_000,
            reference=VALIDATION,
            source="the revised abstract",
            unknown=(*_DINO_TOK_UNKNOWN, "reference set", "number of images"),
        ),
        FidProtocol(
            name="dino-tok-2511-zero-shot-512",
            about="rFID of DINO-Tok's first version on VFHQ, Spring, CelebA, TextOCR and ENeRF.",
            image_size=512,
            images=None,
            reference="the images' own crops",
            source="MKJia/DINO-Tok 49fed4f, tables as pictures",
            conditions=("one of these five sets",),
            unknown=(*_DINO_TOK_UNKNOWN, "which images of each set, and how many"),
        ),
        FidProtocol(
            name="dino-tok-2511-zero-shot-1440",
            about="rFID of DINO-Tok's first version on DAVIS and UHDBench.",
            image_size=(1440, 2560),
            images=None,
            reference="the images' own crops",
            source="MKJia/DINO-Tok 49fed4f, tables as pictures",
            conditions=("one of these two sets",),
            unknown=(*_DINO_TOK_UNKNOWN, "which images of each set, and how many"),
        ),
        FidProtocol(
            name="dino-tok-2511-gfid",
            about="gFID of DINO-Tok's first version (5.98 of 50 steps, 5.94 of 100), precision and recall.",
            image_size=256,
            images=50_000,
            reference=ADM,
            metrics=("frechet", "precision_recall"),
            unmeasured=("the Inception score",),
            source="MKJia/DINO-Tok 49fed4f, tables as pictures",
            generated=True,
            sampling={"steps": (50, 100), "guidance": 1.0},
            conditions=("DINO-Tok-XL, 80 epochs",),
            unknown=(
                *_DINO_TOK_UNKNOWN,
                "reference set",
                "number of samples",
                "sampler and shift of its times",
                "balance of classes",
                "precision's neighbours",
            ),
        ),
        FidProtocol(
            name="dino-tok-2603-gfid",
            about="gFID of DINO-Tok's revised version (diffusion 1.82, autoregressive 2.44).",
            image_size=256,
            images=50_000,
            reference=ADM,
            metrics=("frechet", "precision_recall"),
            unmeasured=("the Inception score",),
            source="the revised abstract",
            generated=True,
            conditions=("the transformer of the paper; few-step sampling for diffusion",),
            unknown=(
                *_DINO_TOK_UNKNOWN,
                "reference set",
                "number of samples",
                "sampler, guidance, balance of classes",
            ),
        ),
    )
}
