"""The adversarial objective: a critic tells reconstructions from images, and the decoder learns to pass."""
