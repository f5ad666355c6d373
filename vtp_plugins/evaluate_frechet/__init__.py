"""Evaluators `frechet` and `frechet_generated`."""
