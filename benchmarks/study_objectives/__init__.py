"""Which objectives give a latent that means something and reconstructs: the VTP paper's claim, in small."""
