"""Evaluator `codebook`."""
