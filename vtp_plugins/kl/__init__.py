"""KL bottleneck: a Gaussian latent pulled towards the standard normal, as in latent diffusion."""
