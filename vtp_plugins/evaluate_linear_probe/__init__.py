"""Evaluator `linear_probe`."""
