"""Offers the evaluator `reconstruction`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `reconstruction`."""
    register(
        "reconstruction",
        "vtp_plugins.evaluate_reconstruction.evaluator:Reconstruction",
        config="vtp_plugins.evaluate_reconstruction.config:ReconstructionConfig",
        summary="PSNR and SSIM of the reconstruction, beside those of the mean colour.",
    )
