"""Fusion of encoder layers into one latent, and the continuous bottleneck `fusion`."""
