"""`vtp scale`: trains a grid of recipes and draws metrics against forward training FLOPs, with fits."""
