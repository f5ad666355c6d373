"""Without diffusers its folders are known, and what needs it is one line that names the extra."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import vtp_plugins.diffusers
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.diffusers.config import DiffusersBottleneckConfig
from vtp_plugins.diffusers.format import DiffusersFormat
from vtp_plugins.diffusers.layout import layout_of

EXTRA = r"pip install 'vtp-core\[diffusers\]'"


@pytest.fixture(autouse=True)
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "vtp_plugins.diffusers.model", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)


def test_the_extra_is_named(tmp_path: Path) -> None:
    config = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert DiffusersFormat().matches(tmp_path)
    with pytest.raises(UsageError, match=EXTRA):
        load(tmp_path)
    with pytest.raises(UsageError, match=EXTRA):
        DiffusersFormat().check_packages()
    with pytest.raises(ModuleNotFoundError, match=EXTRA):
        _ = vtp_plugins.diffusers.AutoencoderVTP


def test_what_is_no_folder_of_diffusers(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"_class_name": "AutoencoderKL"}', '{"_class_name": 3}'):
        (tmp_path / "config.json").write_text(text)
        assert not DiffusersFormat().matches(tmp_path)
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_sizes_of_published_settings() -> None:
    """SDXL's, FLUX.2's and TAESD's autoencoders by their published settings."""
    four = [128, 256, 512, 512]
    sdxl = layout_of({"_class_name": "AutoencoderKL", "block_out_channels": four, "scaling_factor": 0.13025})
    assert (sdxl.patch, sdxl.channels, sdxl.width, sdxl.factor) == (8, 4, 8, 0.13025)
    flux2 = layout_of({"_class_name": "AutoencoderKLFlux2", "block_out_channels": four})
    assert (flux2.patch, flux2.channels, flux2.statistics) == (16, 128, None)
    taesd = layout_of({"_class_name": "AutoencoderTiny"})
    assert (taesd.patch, taesd.channels, taesd.image_size) == (8, 4, 256)
    sana = layout_of({"_class_name": "AutoencoderDC", "scaling_factor": 0.41407})
    assert (sana.patch, sana.channels, sana.image_size) == (32, 32, 256)
    with pytest.raises(ValueError, match="latent_channels is 0"):
        DiffusersBottleneckConfig(model={"_class_name": "AutoencoderKL", "latent_channels": 0})
