"""KL bottleneck: a Gaussian latent regularised towards the standard normal, as in latent diffusion."""
