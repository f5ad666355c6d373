"""Command `vtp probe-gen`."""
