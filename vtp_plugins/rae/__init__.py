"""RAE (arXiv 2510.11690): published representation autoencoders of a frozen encoder and a ViT decoder."""
