"""Evaluator `retrieval`."""
