"""Registers ``samples``. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_sources(register: Register) -> None:
    """The drawings."""
    register(
        "samples",
        "vtp_plugins.samples.source:Samples",
        config="vtp_plugins.samples.config:SamplesConfig",
        summary="800 + 215 public-domain drawings of 64 px with captions and classes, in the package",
    )
