"""The hooks of this plugin."""

from vtp_core.plugins import Register, hookimpl

vtp_api = 2


@hookimpl
def register_optimizers(register: Register) -> None:
    """Offers Muon."""
    register(
        "muon",
        "vtp_plugins.muon.algorithm:Muon",
        config="vtp_plugins.muon.config:MuonConfig",
        summary="Muon for the matrices of blocks, AdamW for the rest.",
    )
