"""Linear bottleneck: the published VTP models' projection to the latent channels."""
