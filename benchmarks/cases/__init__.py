"""One file a case; each has `SHAPES`, `FORMAT` and `build(shape, options) -> Case`."""
