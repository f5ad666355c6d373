"""`vit`, `linear` and `kl` as plugins: what they offer, and that describing them needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vtp_plugins.kl.plugin
import vtp_plugins.linear.plugin
import vtp_plugins.vit.plugin
from vtp_core.bottleneck import Bottleneck
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.plugins import Plugins
from vtp_core.recipe.writing.docs import key_docs


@pytest.mark.parametrize(
    ("module", "kind", "base"),
    [
        (vtp_plugins.vit.plugin, "encoder", Encoder),
        (vtp_plugins.vit.plugin, "decoder", Decoder),
        (vtp_plugins.linear.plugin, "bottleneck", Bottleneck),
        (vtp_plugins.kl.plugin, "bottleneck", Bottleneck),
    ],
)
def test_offers_its_component(module: object, kind: str, base: type) -> None:
    name = module.__name__.split(".")[1]
    plugins = Plugins()
    plugins.add(module, name, distribution="vtp-core")
    component = plugins.find(kind, name)
    assert issubclass(component.load_target(), base)
    config = component.load_config()
    assert config(use=name).use == name
    assert key_docs(config).keys() == config.model_fields.keys()


def test_configurations_import_no_torch() -> None:
    names = ("vit", "linear", "kl")
    modules = ", ".join(f"vtp_plugins.{name}.{part}" for name in names for part in ("plugin", "config"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
