"""Vector quantisation in a global PCA's axes: reweighted, or in the dominant subspace (DINO-Tok)."""
