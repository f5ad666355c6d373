"""The KoLeo regulariser: spreads class tokens over the sphere."""
