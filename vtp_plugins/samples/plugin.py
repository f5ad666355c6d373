"""Registers ``samples``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    """The drawings."""
    register(
        "samples",
        "vtp_plugins.samples.source:Samples",
        config="vtp_plugins.samples.config:SamplesConfig",
        summary="800 + 215 public-domain drawings of 64 px with captions and classes, in the package",
    )
