"""Command `vtp probe-gen`, evaluator `probe_gen`."""
