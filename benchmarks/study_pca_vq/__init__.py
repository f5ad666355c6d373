"""Does a codebook on frozen features gain from principal axes? Codebooks on features that are read once."""
