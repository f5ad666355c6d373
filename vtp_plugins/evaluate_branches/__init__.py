"""Evaluator `branches`."""
