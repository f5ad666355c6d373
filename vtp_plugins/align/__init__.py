"""Alignment of latents with the features of a frozen network (VA-VAE)."""
