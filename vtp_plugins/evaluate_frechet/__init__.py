"""Evaluator `frechet`."""
