"""The published checkpoints of VA-VAE (LightningDiT, arXiv 2501.01423): reader and writer."""
