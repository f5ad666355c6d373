"""Functions that Triton compiles; importing them needs the package triton.

With ``TRITON_INTERPRET=1`` in the environment before the import they run on the CPU, slowly, for tests.
"""
