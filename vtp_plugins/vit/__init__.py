"""Vision transformer encoder and decoder, able to express every published VTP model."""
