"""Networks of the library timm as encoders: frozen, or adapted in their last blocks."""
