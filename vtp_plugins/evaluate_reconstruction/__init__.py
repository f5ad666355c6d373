"""Evaluator `reconstruction`."""
