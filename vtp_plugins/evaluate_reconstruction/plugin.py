"""Offers the evaluator `reconstruction`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `reconstruction`."""
    register(
        "reconstruction",
        "vtp_plugins.evaluate_reconstruction.evaluator:Reconstruction",
        config="vtp_plugins.evaluate_reconstruction.config:ReconstructionConfig",
        summary="PSNR, SSIM, MS-SSIM, LPIPS, colour shift and texture of the reconstructions.",
    )
