"""Convolutional auto-encoder of latent diffusion (Rombach et al. 2022), as an encoder and a decoder."""
