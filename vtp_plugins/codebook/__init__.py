"""The command `vtp codebook`: what a codebook of an encoder's features would be like."""
