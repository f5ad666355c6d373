"""The process in which `try_plugins` tries one plugin: ``python -m ... NAME FILE UNTIL``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from vtp_core.plugins import BrokenComponent, diagnose, load_plugins
from vtp_core.plugins.component import FIRST_PARTY
from vtp_core.plugins.trial import DIAGNOSED, LOADED

if __name__ == "__main__":
    name, file, until = sys.argv[1:]
    plugins = load_plugins([file] if file else [], [] if file else [name], record_broken_files=True)
    print(LOADED, flush=True)
    if until == DIAGNOSED:
        for component in plugins.components():
            if component.distribution != FIRST_PARTY:
                with suppress(BrokenComponent):
                    if component.kind == "diagnostic":
                        diagnose(component)
                    elif component.kind in ("kernel", "ranking"):  # those that the core's diagnostics import
                        component.load_target()
        print(DIAGNOSED, flush=True)
    os._exit(0)  # threads of the plugin may never end
