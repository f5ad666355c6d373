"""Evaluator `diffusability`."""
