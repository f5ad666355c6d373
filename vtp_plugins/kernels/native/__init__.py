"""Compiling and loading the extension modules `_C_cpu` and `_C_cuda`.

`setup.py` imports `build` while no dependency may be installed: these files use the standard library alone,
and torch only inside functions.
"""
