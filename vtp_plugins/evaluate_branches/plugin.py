"""Offers the evaluator `branches`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `branches`."""
    register(
        "branches",
        "vtp_plugins.evaluate_branches.evaluator:Branches",
        config="vtp_plugins.evaluate_branches.config:BranchesConfig",
        summary="PSNR with one branch of the latent replaced by its mean: what that branch holds.",
    )
