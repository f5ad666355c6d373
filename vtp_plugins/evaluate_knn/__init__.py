"""Evaluator `knn`."""
