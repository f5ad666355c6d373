"""Offers the format `transformers`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Folders of transformers."""
    register(
        "transformers",
        "vtp_plugins.transformers_format.format:TransformersFormat",
        summary="AutoModel, AutoImageProcessor, AutoTokenizer after `import vtp_plugins.transformers`.",
    )
