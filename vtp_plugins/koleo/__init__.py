"""The KoLeo regulariser: class tokens spread over the sphere."""
