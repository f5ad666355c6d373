"""Packages with plugins, as pip would leave them."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes packages with an entry point into a folder on the path."""
    monkeypatch.delenv("VTP_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, code, *, distribution=None, version="0.2", module=None):
        module = module or f"test_plugin_{name}"
        distribution = distribution or f"vtp-plugin-{name}"
        (tmp_path / f"{module.replace('.', '/')}.py").write_text(code)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[vtp]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write
