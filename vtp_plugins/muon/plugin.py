"""The hooks of this plugin."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_optimizers(register: vtp.Register) -> None:
    """Offers Muon."""
    register(
        "muon",
        "vtp_plugins.muon.algorithm:Muon",
        config="vtp_plugins.muon.config:MuonConfig",
        summary="Muon for the matrices of blocks, AdamW for the rest.",
    )
