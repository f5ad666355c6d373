"""Evaluator `latent_statistics`."""
