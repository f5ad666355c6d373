"""Evaluator `zero_shot`."""
