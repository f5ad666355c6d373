"""Evaluator `dino_probe`."""
